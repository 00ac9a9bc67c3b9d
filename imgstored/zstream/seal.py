"""Writes the checksums that chain the records of a stream. Pure: no I/O."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgstored.zstream.fletcher4 import Buffer, ByteOrder, Fletcher4, Sums, combine
from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where a record's own checksum goes, until it is known.
UNSEALED: Final = bytes(HEADER_SIZE - CHECKED_SIZE)

_MASK: Final = (1 << 64) - 1
_ZERO: Final = (0, 0, 0, 0)


class Sealer:
    """Seals a stream from its first byte on. `sums` is the fletcher-4 of all that it got."""

    def __init__(self, byte_order: ByteOrder = "<") -> None:
        self._order: ByteOrder = byte_order
        self._fletcher = Fletcher4(byte_order)

    @property
    def sums(self) -> Sums:
        """The fletcher-4 of the stream so far."""
        return self._fletcher.sums

    def add(self, data: Buffer) -> None:
        """Adds what has no checksum within it, such as a large payload. Its length is a multiple of 4."""
        self._fletcher.update(data)

    def seal(self, made: bytearray, places: Sequence[int]) -> None:
        """Adds records, whose own checksums go to these places, where there are zeros: `UNSEALED`.

        A checksum is of all before it, so of the earlier ones, too. All is summed as if these were zeros; how
        much the true sums lead depends on the checksums and on how many bytes follow, not on which.
        """
        noted = self._fletcher.update_noting(made, places)
        lead, last = _ZERO, 0
        for place, sums in zip(places, noted, strict=True):
            lead = combine(lead, (place - last) // 4, _ZERO)
            stated = struct.pack(f"{self._order}4Q", *_plus(sums, lead))
            last = place + len(stated)
            made[place:last] = stated
            lead = _after(lead, struct.unpack(f"{self._order}8I", stated))
        lead = combine(lead, (len(made) - last) // 4, _ZERO)
        self._fletcher.sums = _plus(self._fletcher.sums, lead)


def _after(lead: Sums, stated: Sequence[int]) -> Sums:
    """The lead after words that were summed as zeros."""
    a, b, c, d = lead
    for word in stated:
        a += word
        b += a
        c += b
        d += c
    return a & _MASK, b & _MASK, c & _MASK, d & _MASK


def _plus(sums: Sums, lead: Sums) -> Sums:
    a, b, c, d = ((one + other) & _MASK for one, other in zip(sums, lead, strict=True))
    return a, b, c, d
