"""The file that ranges are written to in any order, and that the pump reads up to the watermark.

Every complete range's fingerprint goes to a journal. A later process trusts only ranges that still have it.
So neither the file nor the journal needs an fsync.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct, field

from imgstored.errors import DownloadError, NoSpaceError
from imgstored.hashing import Hasher
from imgstored.host import shortage
from imgstored.pools.base import BOUNDLESS
from imgstored.transfer.plan import MAX_RANGE, MIN_RANGE, range_count, range_size_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgstored.hashing import Fingerprint
    from imgstored.pools.base import Room
    from imgstored.transfer.range_journal import RangeJournal, Spooled
    from imgstored.transfer.watermark import Watermark

log = structlog.get_logger(__name__)

#: Bytes that are read at a time, for the pump and for hashing.
BLOCK = 1 << 20


class DifferentError(Exception):
    """Bytes that came differ from those that are in the spool, at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"other bytes at {offset}")
        self.offset = offset


class _Growing(Struct):
    """A range of which a part is there: bytes up to `position`, an offset in the file."""

    position: int
    hasher: Hasher = field(default_factory=Hasher)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Waiter(Struct):
    """Who waits until a range is there up to an offset in the file."""

    until: int
    come: threading.Event = field(default_factory=threading.Event)


class Spool:
    """One file's spool. `write` is called from several threads at once; the rest by who runs the download.

    `end_of` and `wait_from` are for any thread.
    """

    def __init__(
        self,
        path: Path,
        journal: RangeJournal,
        watermark: Watermark,
        room: Room = BOUNDLESS,
        *,
        min_range: int = MIN_RANGE,
        connections: int = 1,
    ) -> None:
        """`min_range` bounds the ranges of a file that begins anew; `connections` fetch them side by side."""
        self._connections = connections
        self._path = path
        self._min_range = min_range
        self._room = room
        self._journal = journal
        self._watermark = watermark
        self._fd = -1
        self._lock = threading.Lock()
        self._growing: dict[int, _Growing] = {}
        self._fingerprints: dict[int, Fingerprint] = {}
        self._waiting: dict[int, list[_Waiter]] = {}  # by range
        self._closed = False  # nothing comes any more
        self._present = 0
        self.generation = 0  #: grows whenever what was there does not count any more
        self.size: int | None = None
        self.range_size = MAX_RANGE
        self.validators: dict[str, str] = {}

    # -- opening ---------------------------------------------------------------------------------------------

    def open(self, size: int | None, check: Callable[[], None]) -> None:
        """Opens or creates the file, and takes over the ranges that are still what the journal says.

        `size` is what the file must have, None if that is not known. `check` is called for every block that
        is hashed; what it raises ends the call. The watermark advances meanwhile. Raises `DownloadError` if
        the path is not a regular file of ours, and `NoSpaceError`.
        """
        self._fd = open_private(self._path)
        known = self._journal.load()
        with spool_errors(self._path):
            length = os.fstat(self._fd).st_size
            if known is not None and known.is_plausible(size, length):
                self._take_over(known, check)
                return
            os.ftruncate(self._fd, 0)
        self._journal.forget()
        if size is not None:
            self.begin(size)

    def _take_over(self, known: Spooled, check: Callable[[], None]) -> None:
        self.size, self.range_size, self.validators = known.size, known.range_size, dict(known.validators)
        comparable = known.comparable()
        if len(comparable) < len(known.fingerprints):
            missing = {each.algorithm for each in known.fingerprints.values() if not each.can_be_compared}
            log.warning(
                "downloads ranges again: what their hashes were made with is not installed",
                spool=self._path.name,
                ranges=len(known.fingerprints) - len(comparable),
                algorithms=sorted(missing),
            )
        for index in comparable:
            fingerprint = known.fingerprints[index]
            if self._hash(index, fingerprint.algorithm, check) == fingerprint:
                self._fingerprints[index] = fingerprint
                self._present += self._stop(index) - index * self.range_size
                self._advance()

    def begin(self, size: int) -> None:
        """The file's size is known, and nothing of it counts as there.

        Raises `DifferentError` when the pump has seen more than that, and `NoSpaceError`.
        """
        if size < self._watermark.position:
            raise DifferentError(size)
        self._clear()
        self.size, self.range_size = size, range_size_for(size, self._min_range, self._connections)
        with spool_errors(self._path):
            os.ftruncate(self._fd, size)
        self._journal.begin(size, self.range_size)

    def close(self) -> None:
        """Closes the file; `blocks` goes on undisturbed."""
        with self._lock:
            self._closed = True
            self._wake_all()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- writing ---------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Reserves room for what is to come, if the file's size is known. Raises `NoSpaceError`.

        What once came has its room, whether it still counts as there or comes again.
        """
        if self.size is not None:
            with spool_errors(self._path):
                occupied = os.fstat(self._fd).st_blocks * 512
            self._room.expect(max(0, self.size - occupied), exact=True)

    def write(self, offset: int, data: memoryview) -> int:
        """Puts bytes of the file where they belong. Bytes that are there already are compared instead.

        A range is written without gaps, from where `missing` says. Returns how many bytes were new. Raises
        `DifferentError` when bytes differ, `NoSpaceError`, and `DownloadError` when they cannot be written.
        """
        assert self.size is None or offset + len(data) <= self.size
        fresh = 0
        while data:
            index = offset // self.range_size
            length = min(len(data), (index + 1) * self.range_size - offset)
            fresh += self._write_in_range(index, offset, data[:length])
            offset, data = offset + length, data[length:]
        return fresh

    def _write_in_range(self, index: int, offset: int, data: memoryview) -> int:
        with self._lock:
            growing = None if index in self._fingerprints else self._growing.get(index)
            if growing is None and index not in self._fingerprints:
                growing = self._growing[index] = _Growing(index * self.range_size)
        if growing is None:
            self._compare(offset, data)
            return 0
        # Two connections may bring the same range; whoever is ahead writes, and the other one is compared.
        with growing.lock:
            there = max(0, min(growing.position - offset, len(data)))
            if there:
                self._compare(offset, data[:there])
            fresh = data[there:]
            if not fresh:
                return 0
            assert offset + there == growing.position, f"a gap in range {index}"
            self._put(offset + there, fresh)
            growing.hasher.update(fresh)
            growing.position += len(fresh)
            complete = growing.position == self._stop(index)
        with self._lock:
            self._present += len(fresh)
            self._wake(index, growing.position)
        if complete:
            self._complete(index, growing)
        self._advance()
        return len(fresh)

    def _put(self, offset: int, data: memoryview) -> None:
        """Writes what the pump has not seen yet; what it has must stay as it is."""
        seen = max(0, min(self._watermark.position - offset, len(data)))
        if seen:
            self._compare(offset, data[:seen])
            offset, data = offset + seen, data[seen:]
        size = len(data)
        self._room.take(size)
        try:
            with spool_errors(self._path):
                while data:
                    written = os.pwrite(self._fd, data, offset)
                    offset, data = offset + written, data[written:]
        finally:
            self._room.spent(size)

    def _compare(self, offset: int, data: memoryview) -> None:
        with spool_errors(self._path):
            if os.pread(self._fd, len(data), offset) != data:
                raise DifferentError(offset)

    def _complete(self, index: int, growing: _Growing) -> None:
        fingerprint = growing.hasher.fingerprint()
        with self._lock:
            self._fingerprints[index] = fingerprint
            del self._growing[index]
        if self.size is not None:
            self._journal.record(index, fingerprint)

    def _advance(self) -> None:
        """Moves the watermark as far as there is no gap.

        Not only when the watermark is in the range that was written: another connection with the same range
        may have moved it to that one's end already, before the range was complete.
        """
        with self._lock:
            watermark = self._watermark.position
            current = watermark // self.range_size
            while current in self._fingerprints:
                current += 1
                watermark = min(current * self.range_size, self._stop(current - 1))
            growing = self._growing.get(current)
            self._watermark.advance(watermark if growing is None else max(watermark, growing.position))

    # -- turns of events -------------------------------------------------------------------------------------

    def settle(self, size: int) -> None:
        """All of a file of unknown size has come, and it has `size` bytes.

        Raises `DifferentError` when more than that had come before.
        """
        parts = dict(self._growing)
        if size < max(
            [len(self._fingerprints) * self.range_size, *(part.position for part in parts.values())]
        ):
            raise DifferentError(size)
        with spool_errors(self._path):
            os.ftruncate(self._fd, size)
        self.size = size
        self._fingerprints |= {index: part.hasher.fingerprint() for index, part in parts.items()}
        self._growing.clear()
        self._journal.begin(size, self.range_size)
        for index, fingerprint in self._fingerprints.items():
            self._journal.record(index, fingerprint)

    def begin_anew(self) -> None:
        """Trusts nothing that is there: every range is to come again.

        What the pump may have read stays, and is compared with what comes. Nothing may be writing meanwhile.
        """
        self._clear()
        self.validators.clear()
        if self.size is None:
            self._journal.forget()
        else:
            self._journal.begin(self.size, self.range_size)

    def forget(self) -> None:
        """Nothing that is there serves a later download. The last call but `close`."""
        self._clear()
        self._journal.forget()

    def _clear(self) -> None:
        with self._lock:
            self.generation += bool(self._fingerprints or self._growing)
            self._fingerprints.clear()
            self._growing.clear()
            self._present = 0
            self._wake_all()

    def remember(self, url: str, validator: str) -> None:
        """Remembers what the server at `url` calls this state of the file."""
        if self.validators.get(url) != validator:
            self.validators[url] = validator
            if self.size is not None:
                self._journal.remember(url, validator)

    # -- how it stands ---------------------------------------------------------------------------------------

    @property
    def ranges(self) -> int:
        """The number of ranges of the file; 1 while its size is not known."""
        return 1 if self.size is None else range_count(self.size, self.range_size)

    @property
    def done(self) -> frozenset[int]:
        """Indexes of the complete ranges."""
        with self._lock:
            return frozenset(self._fingerprints)

    @property
    def complete(self) -> bool:
        """True if all of the file is there."""
        return self.size is not None and len(self._fingerprints) == self.ranges

    @property
    def present(self) -> int:
        """Bytes that are there, anywhere in the file."""
        return self._present

    @property
    def kept(self) -> int:
        """Bytes of complete ranges, which the journal has."""
        with self._lock:
            if self.size is None:
                return 0
            last = self.ranges - 1
            cut = self.ranges * self.range_size - self.size if last in self._fingerprints else 0
            return len(self._fingerprints) * self.range_size - cut

    def missing(self, index: int) -> tuple[int, int]:
        """Offsets [start, stop) of what is not there of range `index`."""
        with self._lock:
            growing = self._growing.get(index)
            stop = self._stop(index)
            if index in self._fingerprints:
                return stop, stop
        return (index * self.range_size if growing is None else growing.position), stop

    def end_of(self, offset: int) -> int:
        """The end of the bytes that are there from `offset` on; `offset` itself if there are none."""
        with self._lock:
            return self._end_of(offset)

    def _end_of(self, offset: int) -> int:
        end, index = offset, offset // self.range_size
        while index in self._fingerprints:
            end = self._stop(index)
            index += 1
        growing = self._growing.get(index)
        if growing is not None and index * self.range_size <= end:
            end = max(end, growing.position)
        return end

    def wait_from(self, offset: int, enough: int, seconds: float) -> int:
        """As `end_of`, once `enough` bytes, or the rest of their range, are there, or the time is over.

        Blocks. Does not wait when nothing comes any more. What comes elsewhere in the file wakes nobody here.
        """
        with self._lock:
            index = offset // self.range_size
            until, end = min(offset + enough, self._stop(index)), self._end_of(offset)
            if end >= until or self._closed:
                return end
            waiter = _Waiter(until)
            self._waiting.setdefault(index, []).append(waiter)
        come = waiter.come.wait(seconds)
        with self._lock:
            if not come and (left := [each for each in self._waiting.pop(index, ()) if each is not waiter]):
                self._waiting[index] = left
            return self._end_of(offset)

    def _wake(self, index: int, position: int) -> None:
        waiting = self._waiting.pop(index, ())
        for each in waiting:
            if each.until <= position:
                each.come.set()
        if left := [each for each in waiting if each.until > position]:
            self._waiting[index] = left

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for each in waiting:
                each.come.set()
        self._waiting.clear()

    def _stop(self, index: int) -> int:
        stop = (index + 1) * self.range_size
        return stop if self.size is None else min(stop, self.size)

    def _hash(self, index: int, algorithm: str, check: Callable[[], None]) -> Fingerprint:
        hasher = Hasher(algorithm)
        offset, stop = index * self.range_size, self._stop(index)
        while offset < stop:
            check()
            data = os.pread(self._fd, min(BLOCK, stop - offset), offset)
            if not data:
                break
            hasher.update(data)
            offset += len(data)
        return hasher.fingerprint()


def blocks(path: Path, watermark: Watermark) -> Iterator[bytes]:
    """The file's bytes in order up to the watermark, 1 MiB at most at a time. Blocks; for the pump's thread.

    Ends with the file. Raises what the watermark was failed with. May be run several times, also after the
    download.
    """
    offset = 0
    if watermark.wait(0) == 0:
        return
    with spool_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while (position := watermark.wait(offset)) > offset:
            while offset < position:
                with spool_errors(path):
                    data = os.pread(fd, min(BLOCK, position - offset), offset)
                if not data:
                    raise DownloadError(f"the spool {path} was cut short while it was read")
                offset += len(data)
                yield data
    finally:
        os.close(fd)


def open_private(path: Path) -> int:
    """Opens the spool so that nobody else can read it, or lead it elsewhere by a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with spool_errors(path):
        # Non-blocking, so that a FIFO in its place does not hang the daemon.
        fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        os.close(fd)
        raise DownloadError(
            f"the spool {path} is not a file of the daemon's own",
            hint="another program wrote to the daemon's folder; inspect the file and remove it",
        )
    try:
        with spool_errors(path):
            # Also one that is there already; where nobody else may read it, there is nothing to change.
            if status.st_mode & 0o077:
                os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def spool_errors(path: Path) -> Iterator[None]:
    """Turns the file system's errors into ours."""
    try:
        yield
    except OSError as error:
        if shortage.is_full(error):
            raise NoSpaceError(
                f"there is no room left for the download{shortage.cause(path)}",
                hint="free space on the file system of the daemon's state folder",
            ) from error
        raise DownloadError(f"the spool cannot be used: {shortage.why(error)}") from error
