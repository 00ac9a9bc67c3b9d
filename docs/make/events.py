"""docs/events.md, from the events in imgstored/events/notifications.py and create/events.py. Pure: no I/O."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from imgproto.operations import OPERATIONS

from imgstored.create import events as of_making
from imgstored.events import notifications as of_the_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_HEAD = """\
# Events

While {operations} run,
[the socket](protocol.md) sends notifications `event` with a map: `id` (the request), `event` (the name), and
the fields below. Commands with `--json`, such as `imgctl import --json`, print the same maps, one per line,
without `id`. Later versions may add names and fields: ignore those that you do not know. This page is made
from the code.
"""
_TABLE = "| event | when | fields |\n| --- | --- | --- |\n"

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", NoneType: "nil"}


def page() -> str:
    """The page."""
    shapes = "".join(
        f"\n## {title}\n\n{_TABLE}{''.join(map(_row, _events(module)))}"
        for title, module in (("Imports and what is installed", of_the_store), ("Creating images", of_making))
    )
    image = of_the_store.ImageProgress
    said = f"\n## *image* of `progress`\n\n{_sentence(image)} Fields: {_fields(image)}.\n"
    *most, last = (f"`{name}`" for name, each in OPERATIONS.items() if each.events)
    return _HEAD.format(operations=f"{', '.join(most)} and {last}") + shapes + said


def kinds() -> list[str]:
    """The names of all events of the page."""
    return [event.kind for module in (of_the_store, of_making) for event in _events(module)]


def _events(module: ModuleType) -> Iterator[type[of_the_store.Event]]:
    for each in vars(module).values():
        if inspect.isclass(each) and issubclass(each, of_the_store.Event) and each.kind:
            yield each


def _row(event: type[of_the_store.Event]) -> str:
    return f"| `{event.kind}` | {_sentence(event)} | {_fields(event)} |\n"


def _sentence(shape: type) -> str:
    return " ".join((inspect.getdoc(shape) or "").split()).replace("None", "nil").replace("|", r"\|")


def _fields(shape: Any) -> str:
    hints = {
        name: type_ for name, type_ in get_type_hints(shape).items() if get_origin(type_) is not ClassVar
    }
    return ", ".join(f"`{name}` ({_words(type_)})" for name, type_ in hints.items()) or "none"


def _words(type_: Any) -> str:
    if type_ in _WORDS:
        return _WORDS[type_]
    match get_origin(type_):
        case origin if origin in (Union, UnionType):
            return " or ".join(map(_words, get_args(type_)))
        case origin if origin is Literal:
            return ", ".join(f"`{value}`" for value in get_args(type_))
        case origin if origin is tuple:
            return f"array of {_words(get_args(type_)[0])}"
        case origin if origin is dict:
            return "map"
    if is_typeddict(type_):
        return "map"
    assert type_ is of_the_store.ImageProgress, f"no words for {type_}"
    return "*image*"
