"""Files of the embedded pool: opened by name in an open folder, never through a symbolic link."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from imgstored.errors import NoSpaceError, PoolError
from imgstored.host import filesystem, shortage
from imgstored.host.filesystem import NEW
from imgstored.pools.base import BOUNDLESS
from imgstored.zstream.disk import data_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from imgstored.pools.base import Room

#: Bytes that are read or copied at a time.
BLOCK = 1 << 20

#: FICLONE of linux/fs.h: share all of another file's blocks.
_FICLONE = 0x40049409
#: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of linux/falloc.h.
_PUNCH = 0x01 | 0x02
#: Buffers that one writev takes (IOV_MAX).
_MAX_BUFFERS = 1024

#: Errors of a file system that lacks a call.
_UNABLE = filesystem.UNABLE | {errno.EXDEV}


class Folder:
    """An open folder. Raises `OSError`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder at `path`, which the daemon's configuration names."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def folder(self, name: str) -> Folder:
        """The folder of that name in this one."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return Folder(os.open(name, flags, dir_fd=self.fd))

    def make_folder(self, name: str) -> Folder:
        """A new folder of that name in this one."""
        os.mkdir(name, 0o700, dir_fd=self.fd)
        return self.folder(name)

    def open(self, name: str, flags: int) -> int:
        """Opens a plain file, with mode 0600 if it is new. The caller closes it."""
        return self._opened(name, flags)[0]

    def _opened(self, name: str, flags: int) -> tuple[int, os.stat_result]:
        """As `open`; also returns the file's status."""
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=self.fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, f"{name} is not a plain file")
        return fd, status

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content. Raises `OSError` for one that is larger than `limit` bytes."""
        return self.read_with_status(name, limit)[0]

    def read_with_status(self, name: str, limit: int) -> tuple[bytes, os.stat_result]:
        """As `read`, with the file's status before that."""
        fd, status = self._opened(name, os.O_RDONLY)
        try:
            # A buffer of its size and one byte more, because it may be growing.
            wanted = min(status.st_size, limit)
            content = os.pread(fd, wanted + 1, 0)
            if len(content) < wanted:
                content += read_exactly(fd, wanted + 1 - len(content), len(content))
        finally:
            os.close(fd)
        if len(content) > limit:
            raise OSError(errno.EFBIG, f"{name} is too large")
        return content, status

    def replace(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Replaces a file in one step. If `durable`, it survives a power cut once this returns."""
        new = f"{name}{NEW}"
        fd = self.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(fd, [content], 0)
            if durable:
                filesystem.sync(fd)
        finally:
            os.close(fd)
        os.replace(new, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        if durable:
            self.sync()

    def sweep(self, names: Iterable[str]) -> None:
        """Removes what a dead process left in `replace`; `names` are the names in the folder."""
        for name in names:
            if name.endswith(NEW):
                with contextlib.suppress(IsADirectoryError, PermissionError):
                    os.unlink(name, dir_fd=self.fd)

    def status(self, name: str) -> os.stat_result | None:
        """The status of the file of that name; None if there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def statuses(self) -> dict[str, os.stat_result]:
        """The status of each file in the folder, by name."""
        found: dict[str, os.stat_result] = {}
        for name in os.listdir(self.fd):  # noqa: PTH208 - a `Path` cannot be of a descriptor
            try:
                found[name] = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
        return found

    def names(self) -> list[str]:
        """The names in the folder."""
        with os.scandir(self.fd) as entries:
            return [entry.name for entry in entries]

    def sync(self) -> None:
        """Makes the names in the folder survive a power cut."""
        filesystem.sync(self.fd)

    def close(self) -> None:
        """Closes the folder."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def pool_errors(pool: str, doing: str, place: Path | int) -> Iterator[None]:
    """Turns an `OSError` in the folder `place` into `NoSpaceError` or `PoolError`, and names no path."""
    try:
        yield
    except OSError as error:
        if shortage.is_full(error):
            raise NoSpaceError(
                f'there is no room left in pool "{pool}" for {doing}{shortage.cause(place)}',
                hint="`imgctl delete` an image that you no longer need, or enlarge the pool",
            ) from error
        raise PoolError(
            f'pool "{pool}": {doing} failed: {os.strerror(error.errno) if error.errno else "unknown cause"}',
            hint="check the file system of the pool's folder, and its disk",
        ) from error


def write_all(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """Writes all of the buffers at `offset`; returns where they end. Raises `OSError`."""
    waiting = [memoryview(buffer) for buffer in buffers if len(buffer)]
    waiting.reverse()
    while waiting:
        # The next buffers are at the end of the list, where they can be removed cheaply.
        if hasattr(os, "pwritev"):
            written = os.pwritev(fd, waiting[: -_MAX_BUFFERS - 1 : -1], offset)
        else:
            written = os.pwrite(fd, waiting[-1], offset)
        offset += written
        while waiting and written >= len(waiting[-1]):
            written -= len(waiting.pop())
        if written:
            waiting[-1] = waiting[-1][written:]
    return offset


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer only at the file's end."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def begin_writing_back(fd: int, start: int, size: int) -> None:
    """Asks the kernel to write out these bytes now, so that a later fsync finds little left to do."""
    with contextlib.suppress(AttributeError, OSError):
        os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)


def copy_sparsely(source: int, target: int, start: int, end: int, room: Room = BOUNDLESS) -> None:
    """Copies bytes from start to end to the same place, and leaves holes where there are holes.

    `target` must be empty there. Shares the blocks of a whole file if the file system can (FICLONE), and
    otherwise asks for room before the first byte. Raises `OSError`, `NoSpaceError`.
    """
    status = os.fstat(source)
    size = status.st_size
    if start == 0 and end >= size and _cloned(source, target):
        return
    if os.fstat(target).st_size < end:
        os.ftruncate(target, end)
    room.add(max(0, min(status.st_blocks * 512, min(end, size) - start)))
    position = start
    while position < min(end, size):
        first, hole = data_after(source, position, size)
        position = min(hole, end)
        _copy(source, target, first, position, room)


def _cloned(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    return True


def _copy(source: int, target: int, start: int, end: int, room: Room) -> None:
    copy_in_kernel: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    while start < end:
        size = min(end - start, BLOCK)
        room.take(size)
        try:
            stop = start + size
            while start < stop:
                copied = 0
                if copy_in_kernel is not None:
                    try:
                        copied = copy_in_kernel(source, target, stop - start, start, start)
                    except OSError as error:
                        if error.errno not in _UNABLE:
                            raise
                        copy_in_kernel = None
                if not copied:
                    data = read_exactly(source, stop - start, start)
                    if not data:
                        return
                    copied = write_all(target, [data], start) - start
                start += copied
        finally:
            room.spent(size)


def punch(fd: int, start: int, end: int) -> None:
    """Sets the file's bytes from start to end to zeros, as a hole if possible. Raises `OSError`."""
    if start >= end:
        return
    fallocate = _fallocate()
    if fallocate is not None:
        if fallocate(fd, _PUNCH, start, end - start) == 0:
            return
        if ctypes.get_errno() not in _UNABLE:
            raise OSError(ctypes.get_errno(), "a hole cannot be made")
    for position in range(start, end, BLOCK):
        write_all(fd, [bytes(min(BLOCK, end - position))], position)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None  # on other systems these flags of a function with that name mean something else
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return function
