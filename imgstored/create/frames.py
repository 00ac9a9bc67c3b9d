"""The places where a stream is cut into pieces that stand alone, or a file of zstd was cut. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.errors import StreamError
from imgstored.zstream.records import HEADER_SIZE, byte_order_of, measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgstored.zstream.fletcher4 import ByteOrder

Buffer = bytes | bytearray | memoryview


class _Records:
    """Finds where the records of a send stream begin; their payloads, and checksums, are not looked at."""

    def __init__(self) -> None:
        self.lost = False  #: it is no send stream, or a damaged one
        self._order: ByteOrder | None = None
        self._head = bytearray()  # the part of a header that has come
        self._left = 0  # bytes until the payload ends

    def beginnings(self, view: memoryview) -> list[int]:
        """The places where records begin in the next bytes, the one behind their last byte among them."""
        found: list[int] = []
        place = 0
        while place < len(view) and not self.lost:
            if self._left:
                step = min(self._left, len(view) - place)
                self._left -= step
            else:
                step = min(HEADER_SIZE - len(self._head), len(view) - place)
                self._head += view[place : place + step]
                if len(self._head) == HEADER_SIZE:
                    self._left = self._payload()
            place += step
            if not self._left and not self._head and not self.lost:
                found.append(place)
        return found

    def _payload(self) -> int:
        head, self._head = self._head, bytearray()
        try:
            self._order = self._order or byte_order_of(head)
            if self._order is not None:
                return measure(head, self._order)[1]
        except StreamError:
            pass
        self.lost = True
        return 0


def in_frames(blocks: Iterable[Buffer], size: int) -> Iterator[tuple[memoryview, bool]]:
    """The same bytes; with those after which a piece of the stream ends comes True.

    A piece has `size` bytes at least, and ends where a record does; of what is no send stream it has `size`.
    """
    records = _Records()
    since = 0
    for block in blocks:
        view = memoryview(block).cast("B")
        start = 0
        for place in records.beginnings(view):
            if since + place - start >= size:
                yield view[start:place], True
                start, since = place, 0
        while records.lost and since + len(view) - start >= size:
            place = start + max(0, size - since)
            yield view[start:place], True
            start, since = place, 0
        if start < len(view):
            since += len(view) - start
            yield view[start:], False
