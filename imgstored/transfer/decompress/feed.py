"""Compressed input for decoders and parsers, who choose the steps and may look ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgstored.pools.base import Blocks

#: Bytes that are taken at a time while padding is skipped.
_STEP = 64 << 10


class Feed:
    """Reads `blocks` once, in order, holding one of them at a time."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = iter(blocks)
        self._block = memoryview(b"")
        self._offset = 0
        self.position = 0  #: bytes taken so far

    def take(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes; none at the end."""
        if self._offset == len(self._block):
            self._load()
        piece = self._block[self._offset : self._offset + limit]
        self._offset += len(piece)
        self.position += len(piece)
        return piece

    def back(self, count: int) -> None:
        """Gives back the last `count` bytes of what `take` returned last."""
        assert count <= self._offset
        self._offset -= count
        self.position -= count

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, or as many as there are, without taking them."""
        if len(self._block) - self._offset < count:
            held = bytearray(self._block[self._offset :])
            while len(held) < count:
                self._load()
                if not self._block:
                    break
                held += self._block
            self._block, self._offset = memoryview(bytes(held)), 0
        return bytes(self._block[self._offset : self._offset + count])

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes. Raises `EOFError` if there are fewer."""
        held = bytearray()
        self.append_to(held, count)
        return bytes(held)

    def append_to(self, held: bytearray, count: int) -> None:
        """Adds the next `count` bytes to `held`. Raises `EOFError` if there are fewer."""
        stop = len(held) + count
        while len(held) < stop:
            piece = self.take(stop - len(held))
            if not piece:
                raise EOFError
            held += piece

    def skip_zeros(self) -> int:
        """Takes all zero bytes that come next; returns how many."""
        skipped = 0
        while piece := bytes(self.take(_STEP)):
            rest = len(piece.lstrip(b"\0"))
            skipped += len(piece) - rest
            if rest:
                self.back(rest)
                break
        return skipped

    def _load(self) -> None:
        """Goes on to the next block that has any bytes; to an empty one at the end."""
        self._block, self._offset = memoryview(b""), 0
        for block in self._blocks:
            if block:
                self._block = memoryview(block)
                return
