"""The gate at the socket: it hides known secrets in all messages. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints, is_typeddict

from imgproto import documents, events
from imgproto.operations import OPERATIONS

from imgstored.events.stream import Outcome
from imgstored.http.secrets import KNOWN
from imgstored.sources.base import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.http.secrets import Allowance


def encoded(value: Any, encode: Callable[[Any], bytes], allowance: Allowance | None = None) -> bytes:
    """A message, or a part of one, as `encode` encodes it, without secrets. Raises what `encode` raises.

    It searches the encoded bytes first, because nearly all messages have no secrets. All parts of one message
    share an `allowance`.
    """
    data = encode(value)
    if not KNOWN.may_be_in(data):
        return data
    return encode(KNOWN.hidden_in(value, keep=WORDS, allowance=allowance))


def _words(kind: Any) -> Iterator[str]:
    """The names and the constants of a type."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        yield from hints
        for hint in hints.values():
            yield from _words(hint)
    elif get_origin(kind) is Literal:
        yield from (word for word in get_args(kind) if isinstance(word, str))
    else:
        for each in get_args(kind):
            yield from _words(each)


#: Words of the protocol itself: a message is still one if a password is one of them.
WORDS: Final = frozenset(
    word
    for kind in (*vars(documents).values(), *vars(events).values(), Outcome)
    if is_typeddict(kind) or get_origin(kind) is Literal
    for word in _words(kind)
) | {"event", "import", "install", "delete", *TYPES, *OPERATIONS}
