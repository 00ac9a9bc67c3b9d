"""Puts a stream together from the skeleton of its index and its payloads. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE
from imgstored.zstream.seal import UNSEALED, Sealer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.delta.index import Index
    from imgstored.zstream.fletcher4 import Buffer

#: A payload of this size is summed by itself, and smaller records together up to the size of a window.
_LARGE: Final = 64 << 10
_WINDOW: Final = 256 << 10


def assembled(index: Index, take: Callable[[int], Buffer]) -> Iterator[Buffer]:
    """The stream, in pieces. `take` gives the next bytes of all payloads, one after another.

    The records' own checksums are made anew: those of other payloads would be others.
    """
    sealer = Sealer(index.byte_order)
    made, places = bytearray(), list[int]()
    for number, part in enumerate(index.parts()):
        made += part.header
        if number:
            places.append(len(made))
            made += UNSEALED
        made += part.inline
        if part.external >= _LARGE:
            sealer.seal(made, places)
            yield made
            made, places = bytearray(), []
            payload = take(part.external)
            sealer.add(payload)
            yield payload
        elif part.external:
            made += take(part.external)
        if len(made) >= _WINDOW:
            sealer.seal(made, places)
            yield made
            made, places = bytearray(), []
    if made:
        sealer.seal(made, places)
        yield made


assert CHECKED_SIZE + len(UNSEALED) == HEADER_SIZE
