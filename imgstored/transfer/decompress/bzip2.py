"""bzip2, its blocks decoded side by side.

A bzip2 stream is "BZh" and a level, blocks, and an end, all but the first at any bit. A block begins with a
magic number of 48 bits and its CRC; the end has a magic number too, and a CRC made of the blocks' (bzip2's
compress.c). So blocks are found by their magic number, as bzip2recover does, and each becomes a stream of its
own for libbz2. Where a block's data have the same bits by chance, 1 in 2**52 bits, a sound file is refused; a
damaged one is never taken for sound.
"""

from __future__ import annotations

import bz2
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgstored.transfer.decompress.faults import corrupt, cut_short
from imgstored.transfer.decompress.serial import BLOCK, Format, at_end
from imgstored.transfer.decompress.sniff import BZIP2_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.transfer.decompress.feed import Feed

_BLOCK_MAGIC = 0x314159265359
_END_MAGIC = 0x177245385090
_MAGIC_BITS = 48
_END_BITS = _MAGIC_BITS + 32
#: Up to and with the block's origPtr: magic, CRC, randomised, 24 bits of an index.
_BLOCK_HEADER_BITS = _MAGIC_BITS + 32 + 1 + 24
_LEVEL_BYTES = 100_000

#: 900,000 symbols of at most 20 bits, and their tables: no block is longer.
_MAX_COMPRESSED_BLOCK = 3 << 20

#: Pieces of a block's content that wait to be read: enough for a block, unless it is mostly repetition.
DEPTH = 4

_FIRST_STEP = 4 << 10
_LAST_STEP = 256 << 10


def _begins(head: bytes) -> bool:
    return BZIP2_MAGIC.startswith(head[:3]) and all(level in b"123456789" for level in head[3:4])


BZIP2 = Format("bzip2", _begins, bz2.BZ2Decompressor, (OSError, ValueError), padding=1)


@dataclass(frozen=True, slots=True)
class Unit:
    """One block, as it was found."""

    level: int  #: 1 to 9
    data: bytes
    start: int  #: bit of `data` at which the block begins
    stop: int  #: bit at which it has ended


def units(feed: Feed) -> Iterator[Unit]:
    """All blocks of all streams of `feed`. Raises `UncompressionError`."""
    while True:
        try:
            level = feed.exactly(4)[3] - ord("0")
        except EOFError as error:
            raise cut_short("bzip2", feed.position) from error
        yield from _Stream(feed, level).units()
        if at_end(feed, BZIP2):
            return


def decode(unit: Unit) -> Iterator[bytes]:
    """A block's content, at most 1 MiB at a time. Raises `UncompressionError`."""
    decoder = bz2.BZ2Decompressor()
    data = rewrapped(unit)
    while not decoder.eof:
        try:
            decoded = decoder.decompress(data, BLOCK)
        except OSError as error:
            raise corrupt("bzip2", error) from error
        data = b""
        if decoded:
            yield decoded
        elif decoder.needs_input:
            raise corrupt("bzip2", "a block does not end where the next begins")
    if decoder.unused_data:
        raise corrupt("bzip2", "a block ends before the next begins")


def rewrapped(unit: Unit) -> bytes:
    """A bzip2 stream of this block alone."""
    crc = _bits(unit.data, unit.start + _MAGIC_BITS, 32)
    block = unit.data
    if unit.start:
        # To begin at a byte. A long number is shifted but once: a block is some 400,000 bytes.
        first = bytes([block[0] & 0xFF >> unit.start])
        block = (int.from_bytes(first + block[1:], "big") << unit.start).to_bytes(len(block), "big")
    whole, rest = divmod(unit.stop - unit.start, 8)
    last = block[whole] >> 8 - rest if rest else 0
    padding = -(rest + _END_BITS) % 8
    end = ((last << _MAGIC_BITS | _END_MAGIC) << 32 | crc) << padding
    return b"BZh%d" % unit.level + block[:whole] + end.to_bytes((rest + _END_BITS + padding) // 8, "big")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Bits that are a magic number, at bit `position` of the stream."""

    position: int
    is_end: bool


class _Stream:
    """Finds the blocks of one stream. Positions are bits from where the first block should begin."""

    def __init__(self, feed: Feed, level: int) -> None:
        self._feed = feed
        self._level = level
        self._held = bytearray()
        self._base = 0  #: position of the first byte of `_held`, in bytes
        self._scanned = 0  #: where to look for magic numbers, in bytes of `_held`
        self._marks: deque[_Mark] = deque()
        self._block: int | None = None  #: where the block that is not yet complete began
        self._crc = 0  #: of all blocks before it, combined
        self._crc_differs = False

    def units(self) -> Iterator[Unit]:
        step = _FIRST_STEP
        while True:
            while self._marks and self._is_visible(self._marks[0]):
                mark = self._marks.popleft()
                if not self._is_plausible(mark):
                    continue
                if self._block is not None:
                    yield self._unit(self._block, mark.position)
                    self._crc = self._crc_with_block()
                if mark.is_end:
                    self._leave(mark.position + _END_BITS)
                    return
                self._block = mark.position
            self._more(step)
            step = min(2 * step, _LAST_STEP)

    def _is_visible(self, mark: _Mark) -> bool:
        """Whether enough of what follows is there to judge it."""
        there = (self._base + len(self._held)) * 8 - mark.position
        return there >= (_END_BITS if mark.is_end else _BLOCK_HEADER_BITS)

    def _is_plausible(self, mark: _Mark) -> bool:
        """Whether it is a magic number, and not data that look like one."""
        if self._block is None and mark.position != 0:
            raise corrupt("bzip2", "no block where the first should begin")
        if mark.is_end:
            crc = self._crc if self._block is None else self._crc_with_block()
            matches = self._at(mark.position + _MAGIC_BITS, 32) == crc
            self._crc_differs = not matches
            return matches
        return self._at(mark.position + _END_BITS + 1, 24) < self._level * _LEVEL_BYTES

    def _crc_with_block(self) -> int:
        assert self._block is not None
        rotated = (self._crc << 1 | self._crc >> 31) & 0xFFFFFFFF
        return rotated ^ self._at(self._block + _MAGIC_BITS, 32)

    def _unit(self, start: int, stop: int) -> Unit:
        first, last = start // 8 - self._base, (stop + 7) // 8 - self._base
        return Unit(self._level, bytes(self._held[first:last]), start % 8, start % 8 + stop - start)

    def _more(self, step: int) -> None:
        """Takes more input, and looks for magic numbers in it."""
        self._drop_done()
        piece = self._feed.take(step)
        if not piece:
            if self._crc_differs:
                raise corrupt("bzip2", "the checksum of the whole is another")
            raise cut_short("bzip2", self._feed.position)
        self._held += piece
        found = sorted(_find(self._held, self._scanned))
        self._marks.extend(_Mark(self._base * 8 + position, is_end) for position, is_end in found)
        self._scanned = max(self._scanned, len(self._held) - 6)
        self._check_progress()

    def _check_progress(self) -> None:
        there = self._base + len(self._held)
        if self._block is None and not self._marks and there > 6:
            raise corrupt("bzip2", "no block where the first should begin")
        if there - (self._block or 0) // 8 > _MAX_COMPRESSED_BLOCK + _LAST_STEP:
            raise corrupt("bzip2", "a block that does not end")

    def _drop_done(self) -> None:
        done = min((self._block or 0) // 8 - self._base, self._scanned)
        del self._held[:done]
        self._base += done
        self._scanned -= done

    def _leave(self, stop: int) -> None:
        """Gives back what follows the end: it came with the last piece, or the end had been found before."""
        self._feed.back(self._base + len(self._held) - (stop + 7) // 8)

    def _at(self, position: int, count: int) -> int:
        return _bits(self._held, position - self._base * 8, count)


def _bits(data: bytes | bytearray, start: int, count: int) -> int:
    """`count` bits of `data` from bit `start`, the first the most significant."""
    stop = start + count
    last = (stop + 7) // 8
    return int.from_bytes(data[start // 8 : last], "big") >> last * 8 - stop & (1 << count) - 1


def _needles() -> list[tuple[int, int, bytes, bool]]:
    """For each bit that a magic number may begin at: the bit, offset and value of its whole bytes, kind."""
    found = []
    for magic in (_BLOCK_MAGIC, _END_MAGIC):
        shifted = [(magic << 8 >> bit).to_bytes(7, "big") for bit in range(8)]
        found.append((0, 0, shifted[0][:6], magic == _END_MAGIC))
        found += [(bit, 1, shifted[bit][1:6], magic == _END_MAGIC) for bit in range(1, 8)]
    return found


_NEEDLES = _needles()


def _find(data: bytearray, start: int) -> Iterator[tuple[int, bool]]:
    """Magic numbers that begin in bytes `start` to 7 before the end: at which bit, and if it is the end's."""
    for bit, offset, needle, is_end in _NEEDLES:
        magic = _END_MAGIC if is_end else _BLOCK_MAGIC
        # A magic number from a bit other than 0 on reaches into its seventh byte.
        stop = len(data) - 6 + offset + len(needle) - 1
        at = data.find(needle, start + offset, stop)
        while at >= 0:
            position = (at - offset) * 8 + bit
            if _bits(data, position, _MAGIC_BITS) == magic:
                yield position, is_end
            at = data.find(needle, at + 1, stop)
