"""The spool of a delta: the payloads of an image's stream, from an installed image and from ranges of a file.

    installed image ──► its payloads ──┐
                                       ├──► spool ──► assembled with the skeleton: the stream
    ranges ──► frames ──► payloads ────┘

A download writes to it as to a spool of the whole file. Nothing is taken whose hash is not in the index. So
the index is the journal, too: after a restart all that is in the spool is hashed again, and what fits is
there.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from array import array
from bisect import bisect_right
from contextlib import ExitStack, closing
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct, field

from imgstored.delta.assemble import assembled
from imgstored.delta.index import Index, IndexFaultError, decompressed, hash_of, is_external
from imgstored.delta.known import Extent, Known
from imgstored.errors import ImgstoreError
from imgstored.transfer.spool import BLOCK, open_private, spool_errors
from imgstored.zstream.reader import StreamReader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from imgstored.pools.base import Blocks, Room
    from imgstored.transfer.watermark import Watermark
    from imgstored.zstream.fletcher4 import Buffer

log = structlog.get_logger(__name__)

#: Bytes of an installed image that are read until it shows whether it has anything in common with the stream.
_TRIAL: Final = 64 << 20
#: The part of them that it has to have then.
_TRIAL_SHARE: Final = 0.02
#: A delta that fetches more of the file than this part is none.
_WORTH: Final = 0.9

#: Bytes of incomplete extents that are kept in memory. Those at the end of the file are forgotten first.
_MOST_HELD: Final = 64 << 20
#: Extents that are decompressed at the same time: each may take as much as a frame has.
_AT_A_TIME: Final = 2

_SEEK_DATA: Final[int | None] = getattr(os, "SEEK_DATA", None)


class NotWorthwhileError(IndexFaultError):
    """The installed image has too little in common with the stream."""


class _Growing(Struct):
    """The part of an extent that has come."""

    data: bytearray = field(default_factory=bytearray)
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False


class PayloadSpool:
    """Takes the place of a `Spool`. `write` is called from several threads at once; the rest as there."""

    def __init__(
        self,
        path: Path,
        index: Index,
        watermark: Watermark,
        room: Room,
        *,
        installed: Callable[[], Blocks],
        note_rate: Callable[[int, float], None] = lambda _size, _seconds: None,
        trial: int = _TRIAL,
    ) -> None:
        """`installed` gives the stream of an image that may have the same payloads.

        `note_rate` gets how many bytes of it were read, and in how many seconds.
        """
        self.size: int | None = index.file_size
        self.generation = 0
        self.validators: dict[str, str] = {}
        self.found = 0  #: bytes of payloads that were there before anything was fetched
        self.to_fetch: int | None = None  #: bytes of the file that are to be fetched; None: not known yet
        self._path = path
        self._index = index
        self._total = sum(index.lengths)  # bytes of all payloads
        self._known: Known  # from `open` on, as the next one: to make them takes seconds
        self._at: array[int]  # where each payload is in the file
        self._watermark = watermark
        self._room = room
        self._installed = installed
        self._note_rate = note_rate
        self._trial = trial
        self._fd = -1
        self._lock = threading.Lock()
        self._extents: list[Extent] = []
        self._growing: list[_Growing] = []
        self._starts: list[int] = []
        self._fetched = 0
        self._partial: set[int] = set()  # extents of which there is something in memory
        self._held = 0  # bytes of them
        self._forgotten = 0  # bytes that came, and were forgotten, ever
        self._completing = threading.BoundedSemaphore(_AT_A_TIME)

    # -- opening ---------------------------------------------------------------------------------------------

    def open(self, size: int | None, check: Callable[[], None]) -> None:
        """Opens or creates the file, and fills in what is there already, or is in the installed image.

        `check` as of `Spool.open`. Raises `NotWorthwhileError` where too much would have to be fetched,
        `IndexFaultError`, `DownloadError`, `NoSpaceError`.
        """
        assert size == self.size
        self._known = Known(self._index)
        self._at = array("Q", accumulate(self._index.lengths, initial=0))
        total = self._total
        self._fd = open_private(self._path)
        with spool_errors(self._path):
            length = os.fstat(self._fd).st_size
            # One byte more: all of the installed image has been read.
            if length not in (total, total + 1):
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, total)
        self._take_over(check)
        if length != total + 1:
            self.reserve()
            self._read_installed(check)
            with spool_errors(self._path):
                os.ftruncate(self._fd, total + 1)
        self.found = self._known.size
        self._extents = self._known.extents()
        self._growing = [_Growing() for _ in self._extents]
        self._starts = [extent.start for extent in self._extents]
        self.to_fetch = sum(extent.end - extent.start for extent in self._extents)
        if self.to_fetch > _WORTH * self._index.file_size:
            raise NotWorthwhileError(
                f"{self.to_fetch} of {self._index.file_size} bytes would have to be fetched all the same"
            )
        self._advance()

    def _take_over(self, check: Callable[[], None]) -> None:
        """Believes what is in the file as far as its hashes are in the index."""
        index, end = self._index, self._total
        position = self._data_after(0)
        while position < end:
            check()
            number = bisect_right(self._at, position) - 1
            data = os.pread(self._fd, max(BLOCK, index.lengths[number]), self._at[number])
            start = at = self._at[number]
            while number < index.payloads and at + index.lengths[number] <= start + len(data):
                payload = memoryview(data)[at - start : at - start + index.lengths[number]]
                if not self._known.is_there(number) and hash_of(payload) == index.hash_of(number):
                    self._offer(payload)
                at += index.lengths[number]
                number += 1
            if at == start:
                return
            position = self._data_after(at)

    def _data_after(self, position: int) -> int:
        """The position of the next bytes that may have been written."""
        if _SEEK_DATA is None or position >= self._total:
            return position
        try:
            return os.lseek(self._fd, position, _SEEK_DATA)
        except OSError as error:
            return self._total if error.errno == errno.ENXIO else position

    def _read_installed(self, check: Callable[[], None]) -> None:
        """Takes the payloads of the installed image."""
        before, began, read = self._known.size, time.monotonic(), 0
        with closing(self._payloads(check)) as payloads:
            for payload, read in payloads:
                self._offer(payload)
                if read >= self._trial and self._known.size - before < _TRIAL_SHARE * read:
                    break
        self._note_rate(read, time.monotonic() - began)

    def _payloads(self, check: Callable[[], None]) -> Generator[tuple[Buffer, int], None, None]:
        """The payloads of the installed image, and how much of it was read before each.

        What reading it fails with is no reason to fail.
        """
        reader, read = StreamReader(), 0
        with ExitStack() as stack:
            try:
                blocks = self._installed()
                stack.callback(getattr(blocks, "close", lambda: None))
                for block in blocks:
                    check()
                    for record in reader.records(block):
                        if is_external(record.type, len(record.payload), 1):
                            yield record.payload, read
                    read += len(block)
            except (ImgstoreError, OSError) as error:
                log.warning("an installed image cannot be read", spool=self._path.name, error=str(error))

    def _offer(self, payload: Buffer) -> None:
        """Takes a payload if it is wanted."""
        numbers = self._known.wanted(hash_of(payload), len(payload))
        if numbers:
            for number in numbers:
                self._put(payload, self._at[number])
            self._known.add(numbers)

    # -- writing ---------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Reserves room for the payloads that are to come. Raises `NoSpaceError`."""
        self._room.expect(self._total - self._known.size, exact=True)

    def write(self, offset: int, data: memoryview) -> int:
        """Takes bytes of the file, as far as they are wanted. Returns how many of them were new.

        Raises `IndexFaultError` where what came is not what the index says, `NoSpaceError`, `DownloadError`.
        """
        fresh, end = 0, offset + len(data)
        number = max(0, bisect_right(self._starts, offset) - 1)
        while number < len(self._extents) and self._extents[number].start < end:
            extent, growing = self._extents[number], self._growing[number]
            with growing.lock:
                position = extent.start + len(growing.data)
                if not growing.done and offset <= position < end:
                    piece = data[position - offset : extent.end - offset]
                    growing.data += piece
                    fresh += len(piece)
                    self._hold(number, len(piece))
                    if position + len(piece) == extent.end:
                        with self._completing:
                            self._complete(extent, growing.data)
                        self._drop(number, growing)
                        growing.done = True
            number += 1
        with self._lock:
            self._fetched += fresh
        self._bound_memory()
        return fresh

    def _hold(self, number: int, size: int) -> None:
        with self._lock:
            self._partial.add(number)
            self._held += size

    def _drop(self, number: int, growing: _Growing) -> int:
        """Takes the bytes of an extent out of memory; how many there were. For the holder of its lock."""
        size = len(growing.data)
        growing.data = bytearray()
        with self._lock:
            self._partial.discard(number)
            self._held -= size
        return size

    def _bound_memory(self) -> None:
        """Forgets bytes of incomplete extents where these are too many: they are fetched again.

        A server that completes none could send them for ever. Raises `IndexFaultError`.
        """
        while self._held > _MOST_HELD:
            with self._lock:
                last = max(self._partial, default=None)
            if last is None:
                return
            growing = self._growing[last]
            with growing.lock:
                size = self._drop(last, growing)
            with self._lock:
                self._fetched -= size
                self._forgotten += size
            if self._forgotten > self._index.file_size:
                raise IndexFaultError("the server begins too many parts of the file, and completes few")

    def _complete(self, extent: Extent, data: bytearray) -> None:
        """All bytes of an extent have come."""
        index, view = self._index, memoryview(data)
        for frame in range(extent.first, extent.stop):
            numbers = index.in_frame(frame)
            if not numbers:
                continue
            start = index.file_at[frame] - extent.start
            plain = index.stream_at[frame + 1] - index.stream_at[frame]
            content = memoryview(decompressed(view[start : index.file_at[frame + 1] - extent.start], plain))
            self._take_frame(content, numbers, index.stream_at[frame])
        self._advance()

    def _take_frame(self, content: memoryview, numbers: range, base: int) -> None:
        index, payloads = self._index, []
        for number in numbers:
            start = index.starts[number] - base
            payload = content[start : start + index.lengths[number]]
            digest = index.hash_of(number)
            if hash_of(payload) != digest:
                raise IndexFaultError("a payload of the file is not the one that the index has")
            payloads.append((digest, payload))
        self._put(b"".join(payload for _, payload in payloads), self._at[numbers.start])
        for number, (digest, payload) in zip(numbers, payloads, strict=True):
            with self._lock:
                others = self._known.wanted(digest, len(payload))
            for other in others:
                if other not in numbers:
                    self._put(payload, self._at[other])
            with self._lock:
                self._known.add([*others, number])

    def _put(self, data: Buffer, offset: int) -> None:
        view = memoryview(data)
        size = len(view)
        self._room.take(size)
        try:
            with spool_errors(self._path):
                while view:
                    written = os.pwrite(self._fd, view, offset)
                    offset, view = offset + written, view[written:]
        finally:
            self._room.spent(size)

    def _advance(self) -> None:
        with self._lock:
            self._watermark.advance(self._at[self._known.complete])

    # -- turns of events -------------------------------------------------------------------------------------

    def begin(self, size: int) -> None:
        """The file's size is always known."""
        raise AssertionError(size)

    def settle(self, size: int) -> None:
        """The file's size is always known."""
        raise AssertionError(size)

    def begin_anew(self) -> None:
        """The file on the server may be another one: every hash decides for itself."""
        self.validators.clear()

    def forget(self) -> None:
        """Nothing is believed that the index does not have."""

    def remember(self, url: str, validator: str) -> None:
        """Remembers what the server at `url` calls this state of the file."""
        self.validators[url] = validator

    def close(self) -> None:
        """Closes the file; `stream` goes on undisturbed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- how it stands ---------------------------------------------------------------------------------------

    @property
    def ranges(self) -> int:
        """The number of extents."""
        return len(self._extents)

    @property
    def done(self) -> frozenset[int]:
        """The extents of which all is there."""
        return frozenset(number for number, growing in enumerate(self._growing) if growing.done)

    @property
    def complete(self) -> bool:
        """True if all of the stream is there."""
        return all(growing.done for growing in self._growing)

    @property
    def present(self) -> int:
        """Bytes of the file that have come, or need not come."""
        if self.to_fetch is None:
            return 0
        return self._index.file_size - self.to_fetch + self._fetched

    @property
    def kept(self) -> int:
        """Bytes of the file that came in complete extents."""
        return sum(self._extents[number].end - self._extents[number].start for number in self.done)

    def missing(self, index: int) -> tuple[int, int]:
        """Offsets [start, stop) in the file of what is not there of an extent."""
        extent, growing = self._extents[index], self._growing[index]
        with growing.lock:
            return (extent.end if growing.done else extent.start + len(growing.data)), extent.end

    def wait_from(self, offset: int, enough: int, seconds: float) -> int:
        """Nobody gets the file from here."""
        return offset

    # -- the stream ------------------------------------------------------------------------------------------

    def stream(self) -> Iterator[Buffer]:
        """The stream in pieces, as its payloads come. For the pump's thread, several times.

        Blocks. Raises what the watermark was failed with, and `DownloadError`.
        """
        if self._total:
            self._watermark.wait(0)
        with spool_errors(self._path):
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from assembled(self._index, _Ahead(fd, self._path, self._watermark, self._total).take)
        finally:
            os.close(fd)


class _Ahead:
    """Reads the payloads one after another, in large pieces."""

    def __init__(self, fd: int, path: Path, watermark: Watermark, total: int) -> None:
        self._fd = fd
        self._path = path
        self._watermark = watermark
        self._total = total
        self._offset = 0  # of what is to be read next
        self._block = memoryview(b"")

    def take(self, size: int) -> Buffer:
        """The next bytes; waits for them."""
        if len(self._block) >= size:
            data, self._block = self._block[:size], self._block[size:]
            return data
        parts = [self._block]
        missing = size - len(self._block)
        while missing:
            there = min(self._watermark.wait(self._offset), self._total) - self._offset
            with spool_errors(self._path):
                block = os.pread(self._fd, min(max(BLOCK, missing), there), self._offset)
            if not block:
                raise IndexFaultError("the spool of a delta was cut short")
            self._offset += len(block)
            parts.append(memoryview(block)[:missing])
            self._block = memoryview(block)[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)
