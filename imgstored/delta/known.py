"""The payloads of an image's stream that are there, and the ranges of its file to fetch. Pure."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.delta.index import HASH_SIZE, IndexFaultError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.delta.index import Index

#: Frames with no more bytes between them are fetched by one request: a request costs about as much.
GAP: Final = 8 << 10
#: Bytes that one request asks for, unless one frame has more.
EXTENT: Final = 512 << 10


class Extent(Struct, frozen=True):
    """Frames of the file that lie one after another: numbers [first, stop), and their bytes [start, end)."""

    first: int
    stop: int
    start: int
    end: int


class Known:
    """The payloads of an index: which of them are there. One thread at a time changes it.

    Payloads with the same content are there together. The table has open addressing, for an index may have
    millions of payloads; `hash` of bytes is keyed by chance, so that nobody can make them collide. Raises
    `IndexFaultError`.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        count = index.payloads
        bits = max(4, (2 * count).bit_length())
        self._mask = (1 << bits) - 1
        self._table = array("I", bytes(4 << bits))  # number of a payload, plus one
        self._first = array("I", range(count))  # the first payload with the same content
        self._next = array("I", bytes(4 * count))  # the next one with it, plus one
        self._there = bytearray(count)
        self.complete = 0  #: payloads, counted from the first, that are there without a gap
        self.size = 0  #: bytes of all payloads that are there
        last = array("I", range(count))
        for number in range(count):
            slot = self._slot(index.hash_of(number))
            found = self._table[slot]
            if not found:
                self._table[slot] = number + 1
            else:
                first = found - 1
                if index.lengths[number] != index.lengths[first]:
                    raise IndexFaultError("two payloads of the index have one hash and different lengths")
                self._first[number] = first
                self._next[last[first]] = number + 1
                last[first] = number

    def _slot(self, digest: bytes) -> int:
        """The slot of a hash, or the one where it would be."""
        hashes, table = self._index.hashes, self._table
        slot = hash(digest) & self._mask
        while found := table[slot]:
            at = (found - 1) * HASH_SIZE
            if hashes[at : at + HASH_SIZE] == digest:
                break
            slot = (slot + 1) & self._mask
        return slot

    def wanted(self, digest: bytes, length: int) -> list[int]:
        """The payloads with this hash that are not there; their content has `length` bytes."""
        found = self._table[self._slot(digest)]
        if not found or self._there[found - 1] or self._index.lengths[found - 1] != length:
            return []
        numbers = []
        while found:
            numbers.append(found - 1)
            found = self._next[found - 1]
        return numbers

    def is_there(self, number: int) -> bool:
        """True if a payload is there."""
        return bool(self._there[number])

    def add(self, numbers: list[int]) -> None:
        """These payloads, as `wanted` gave them, are there now."""
        for number in numbers:
            if not self._there[number]:
                self._there[number] = 1
                self.size += self._index.lengths[number]
        there, count = self._there, len(self._there)
        if self.complete < count and there[self.complete]:
            gap = there.find(0, self.complete)
            self.complete = count if gap < 0 else gap

    def missing(self) -> Iterator[int]:
        """The first payload of each content that is not there, in order."""
        return (
            number for number, first in enumerate(self._first) if first == number and not self._there[number]
        )

    def extents(self) -> list[Extent]:
        """The extents of the file that are still to be fetched."""
        index = self._index
        found: list[Extent] = []
        for number in self.missing():
            frame = index.frame_of(number)
            start, end = index.file_at[frame], index.file_at[frame + 1]
            last = found[-1] if found else None
            if last is not None and frame < last.stop:
                continue  # it has another payload that is missing
            if last is None or start - last.end > GAP or end - last.start > EXTENT:
                found.append(Extent(frame, frame + 1, start, end))
            else:
                found[-1] = Extent(last.first, frame + 1, last.start, end)
        return found
