"""The parameters of a request, checked against the operation's TypedDict. Pure: no I/O."""

from __future__ import annotations

from functools import cache
from itertools import islice
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from imgstored.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

P = TypeVar("P")

#: The names of types in messages.
_WORDS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    list[str]: "an array of strings",
    dict[str, Any]: "a map",
    list[dict[str, Any]]: "an array of maps",
}


def printable(text: str, limit: int) -> str:
    """A client's text, fit for a log or a terminal: its first `limit` characters that can be printed."""
    return "".join(islice(filter(str.isprintable, text), limit)).strip()


def checked(method: str, shape: type[P], values: Mapping[str, Any]) -> P:
    """The parameters as `shape`, a TypedDict, without those that are nil. Containers are copies.

    Raises `UsageError` for an unknown parameter, which would have no effect, and for a parameter that is
    missing or of another type.
    """
    fields = _fields(cast("Hashable", shape))
    for name in values:
        if name not in fields:
            raise UsageError(
                f'{method}: unknown parameter "{printable(name, 40)}"',
                hint=f"it has: {', '.join(sorted(fields)) or 'none'}",
            )
    taken: dict[str, Any] = {}
    for name, field in fields.items():
        value = values.get(name)
        if value is not None:
            try:
                taken[name] = msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                raise UsageError(f'{method}: the parameter "{name}" must be {_WORDS[field.type]}') from None
        elif field.required:
            raise UsageError(f'{method}: the parameter "{name}" is missing')
    return cast("P", taken)


class _Field(NamedTuple):
    type: Any
    required: bool


@cache
def _fields(shape: Any) -> dict[str, _Field]:
    """The fields in the order in which they are checked."""
    return {
        name: _Field(_plain(hint), name in shape.__required_keys__)
        for name, hint in get_type_hints(shape).items()
    }


def _plain(hint: Any) -> Any:
    """The type without None. A literal counts as text: the service knows and lists the words."""
    others = [each for each in get_args(hint) if each is not NoneType]
    if get_origin(hint) is Literal:
        return str
    return others[0] if NoneType in get_args(hint) else hint
