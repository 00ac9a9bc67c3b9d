"""Reads all of an image's files, and reports damage.

A filesystem's stream has a checksum with each record. A volume's stream is put together from its disk and its
skeleton; parts of the disk that no record wrote must be zeros, or equal to the origin's disk.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import StreamError
from imgstored.pools.embedded.files import BLOCK, read_exactly
from imgstored.pools.embedded.notes import DISK
from imgstored.pools.embedded.receiver import fresh_start
from imgstored.pools.embedded.stored import open_stream
from imgstored.pools.embedded.trees import check_tree
from imgstored.zstream.disk import data_after
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.volume import Free, Volume, VolumeState, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.pools.base import OnRead
    from imgstored.pools.embedded.files import Folder
    from imgstored.pools.embedded.notes import ImageNote
    from imgstored.zstream.records import Begin, Record

#: Errors of a file system for a missing or damaged file; other errors are not the image's fault.
_DAMAGE: Final = {errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP} | {
    getattr(errno, name) for name in ("EUCLEAN", "EBADMSG", "ECKSUM") if hasattr(errno, name)
}


def check_files(root: Folder, note: ImageNote, origin: ImageNote | None, on_read: OnRead) -> str | None:
    """The damage of the image's files, or None. Raises `OSError` if it cannot read them.

    `origin` is the image that it was cloned from, `on_read` is called as in `Pool.check`.
    """
    try:
        if note.kind == "tree":
            with root.folder(note.uuid) as folder:
                check_tree(folder, note, on_read)
            return None
        with ExitStack() as stack:
            _Check(root, note, origin, stack).run(on_read)
    except StreamError as error:
        return error.message
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        return f"its files cannot be read: {os.strerror(error.errno or errno.EIO)}"
    return None


class _Check:
    """One image's check; its files are open until `stack` is closed."""

    def __init__(self, root: Folder, note: ImageNote, origin: ImageNote | None, stack: ExitStack) -> None:
        self._note = note
        self._origin = origin
        self._reader = StreamReader()
        self._disk: _Disk | None = None
        folder = stack.enter_context(root.folder(note.uuid))
        self._stream = open_stream(folder, volume=note.kind == "volume", stack=stack)
        self._files = [_open_disk(folder, stack)] if note.kind == "volume" else []
        if self._files and origin is not None:
            self._files.append(_open_disk(stack.enter_context(root.folder(origin.uuid)), stack))

    def run(self, on_read: OnRead) -> None:
        """Raises `StreamError`, `OSError`, and what `on_read` raises."""
        note, done = self._note, 0
        for piece in self._stream.pieces(note.stream_size):
            if note.kind == "volume":
                for record in self._reader.records(piece):
                    self._follow(record, partial(on_read, done))
            else:
                self._reader.check(piece)
            done += len(piece)
            on_read(done)
        self._reader.finish()
        begin = self._reader.begin
        if begin is None or (begin.toguid, begin.fromguid) != (note.guid, note.fromguid):
            raise StreamError("its stream is another image's")
        if done != note.stream_size:
            raise StreamError(f"its stream has {done} bytes, and not {note.stream_size}")
        if self._disk is not None:
            self._disk.finish(partial(on_read, done))

    def _follow(self, record: Record, on_read: Callable[[], None]) -> None:
        if self._disk is None:
            begin = self._reader.begin
            assert begin is not None
            self._disk = _Disk(begin, self._note, self._origin, self._files)
        self._disk.step(record, on_read)


class _Rest(Struct, frozen=True):
    """A part of a volume's disk that no record wrote."""

    start: int
    end: int
    inherited: bool  #: True: equal to the origin; False: zeros


class _Disk:
    """Compares the parts of a volume's disk that no record wrote, in the order of the records.

    Keeps one part, which the next part may continue: a small file may have very many parts.
    """

    def __init__(self, begin: Begin, note: ImageNote, origin: ImageNote | None, files: list[int]) -> None:
        self._note = note
        self._files = files  # the disk, and its origin's
        self._volume = Volume(begin.byte_order, fresh_start(begin, origin).volume or VolumeState())
        self._rest = _Rest(0, 0, inherited=False)
        size = os.fstat(files[0]).st_size
        if size != note.volume_size:
            raise StreamError(f"its disk has {size} bytes, and not {note.volume_size}")

    def step(self, record: Record, on_read: Callable[[], None]) -> None:
        """Raises `StreamError` if the disk before the record is wrong."""
        before = self._volume.state.cursor
        match self._volume.step(record):
            case Write(offset, _):
                self._gap(before, offset, on_read)
            case Free(offset, end) if self._volume.state.cursor > before:
                self._gap(before, offset, on_read)
                self._add(_Rest(max(before, offset), end, inherited=False), on_read)
            case _:
                pass

    def finish(self, on_read: Callable[[], None]) -> None:
        """Compares the rest. Raises as `step` does."""
        self._gap(self._volume.state.cursor, self._note.volume_size, on_read)
        self._compare(self._rest, on_read)

    def _gap(self, start: int, end: int, on_read: Callable[[], None]) -> None:
        inherited = min(max(self._volume.state.inherited, start), end)
        self._add(_Rest(start, inherited, inherited=True), on_read)
        self._add(_Rest(inherited, end, inherited=False), on_read)

    def _add(self, rest: _Rest, on_read: Callable[[], None]) -> None:
        last = self._rest
        if rest.start >= rest.end:
            return
        if (last.end, last.inherited) == (rest.start, rest.inherited):
            self._rest = replace(last, end=rest.end)
            return
        self._compare(last, on_read)
        self._rest = rest

    def _compare(self, rest: _Rest, on_read: Callable[[], None]) -> None:
        files = self._files if rest.inherited else self._files[:1]
        for at, stop in _with_data(files, rest.start, min(rest.end, self._note.volume_size)):
            on_read()
            own, *others = (read_exactly(fd, stop - at, at).ljust(stop - at, b"\0") for fd in files)
            if own != (others[0] if others else bytes(stop - at)):
                what = "differs from its origin's" if rest.inherited else "was changed"
                raise StreamError(f"its disk {what} between byte {at} and {stop}")


def _open_disk(folder: Folder, stack: ExitStack) -> int:
    fd = folder.open(DISK, os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


def _with_data(files: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges where any of the files has data, in parts of up to 1 MiB."""
    while start < end:
        start = max(start, min(data_after(fd, start, end)[0] for fd in files))
        stop = min(start + BLOCK, end)
        if start < stop:
            yield start, stop
        start = stop
