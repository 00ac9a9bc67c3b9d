"""The log of a disk's writes, and the disks that a power cut may leave.

QEMU's block driver `blklogwrites` writes the log: each write and each flush of the guest, in order, in the
form of Linux's dm-log-writes. Source: Documentation/admin-guide/device-mapper/log-writes.rst, and QEMU's
block/blklogwrites.c. A head in the first sector, then for each entry a sector with its numbers, and its data.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

SECTOR: Final = 512

_MAGIC: Final = 0x6A736677736872
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<QQQI")  # magic, version, number of entries, bytes of a sector
_ENTRY: Final = struct.Struct("<QQQQ")  # sector, number of sectors, flags, bytes of a mark
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Write:
    """A write of the disk, or only a flush. Offsets in bytes; `at` is where the log has the data."""

    offset: int = 0
    size: int = 0
    at: int = 0
    flush: bool = False  #: what was written before is durable
    durable: bool = False  #: this write is, once it is done
    discard: bool = False  #: nothing was written: the bytes are zeros


class Log(Protocol):
    """All writes of a disk, in their order, with their data: what QEMU wrote, or what is in memory."""

    writes: list[Write]

    def data(self, write: Write) -> bytes:
        """The bytes of a write."""


class WriteLog:
    """A log in a file or a device that is open for reading."""

    def __init__(self, fd: int) -> None:
        """Raises `ValueError` unless it is a log of sectors of 512 bytes, or still without a head."""
        self._fd = fd
        self.writes: list[Write] = []
        head = os.pread(fd, SECTOR, 0)
        if not any(head):
            return
        magic, version, _, sector = _HEAD.unpack_from(head)
        if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
            raise ValueError(f"no log of writes: {magic:#x}, version {version}, sectors of {sector} bytes")
        self.writes = list(self._read())

    def _read(self) -> Iterator[Write]:
        """All entries. The head counts only those before some moment; zeros follow the last one."""
        place = SECTOR
        while len(entry := os.pread(self._fd, SECTOR, place)) == SECTOR:
            sector, sectors, flags, marked = _ENTRY.unpack_from(entry)
            if not (sectors or flags):
                return
            if flags & _MARK or flags & ~(_FLUSH | _FUA | _DISCARD):
                raise ValueError(f"an entry with the flags {flags:#x} at {place}")
            place += SECTOR
            size = sectors * SECTOR
            discard = bool(flags & _DISCARD)
            yield Write(sector * SECTOR, size, place, bool(flags & _FLUSH), bool(flags & _FUA), discard)
            place += (0 if discard else size) + marked

    def data(self, write: Write) -> bytes:
        """The bytes of a write."""
        return bytes(write.size) if write.discard else os.pread(self._fd, write.size, write.at)


@dataclass(frozen=True)
class Cut:
    """A power cut after `moment` writes: those before `durable` are on the disk, and of the others some."""

    moment: int
    durable: int
    kept: tuple[tuple[int, int, int], ...]  #: number of a write, and from where to where it is on the disk


def cut(writes: Sequence[Write], moment: int, share: float, dice: random.Random, *, forgets: int = 0) -> Cut:
    """A cut that keeps about a `share` of the writes that nothing had made durable, whole or torn.

    A disk that `forgets` so many flushes has not done what it said.
    """
    flushed = [each + 1 for each in range(moment) if writes[each].flush]
    durable = (flushed or [0])[-1 - forgets :][0]
    kept = []
    for number in range(durable, moment):
        write = writes[number]
        if write.durable or dice.random() < share:
            kept.append((number, 0, write.size))
        elif 0 < share < 1 and write.size > SECTOR and dice.random() < 0.3:
            # A disk writes sectors whole, in any order.
            one, other = sorted(dice.sample(range(write.size // SECTOR + 1), 2))
            kept.append((number, one * SECTOR, other * SECTOR))
    return Cut(moment, durable, tuple(kept))


class Disk:
    """The parts of a disk as files, brought from the log to any later moment. `parts` are ranges in bytes."""

    def __init__(self, log: Log, files: Sequence[int], parts: Sequence[tuple[int, int]]) -> None:
        """The files are open for writing, and empty."""
        self._log = log
        self._files = tuple(zip(files, parts, strict=True))
        self._moment = 0
        for fd, (start, end) in self._files:
            os.ftruncate(fd, end - start)

    def advance(self, moment: int) -> None:
        """Makes all writes before a moment, which is not before the last one."""
        for number in range(self._moment, moment):
            write = self._log.writes[number]
            self.write(write, 0, write.size, [fd for fd, _ in self._files])
        self._moment = max(self._moment, moment)

    def write(self, write: Write, begin: int, end: int, files: Sequence[int]) -> None:
        """Makes a part of a write in these files, which are those of the disk or copies of them."""
        if begin >= end:
            return
        data = memoryview(self._log.data(write))[begin:end]
        offset = write.offset + begin
        for fd, (_, (start, stop)) in zip(files, self._files, strict=True):
            low, high = max(offset, start), min(offset + len(data), stop)
            if low < high:
                os.pwrite(fd, data[low - offset : high - offset], low - start)
