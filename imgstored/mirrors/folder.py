"""A folder that may be another user's, which root writes to: by descriptors, and never through a link.

Every file appears by a rename, complete and on the disk. Whoever owns the folder may do what they like in it;
they can spoil the site, and reach nothing outside it. All calls block, and end when the job does.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from imgstored.host.filesystem import UNABLE, set_mode, sync, try_flock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgstored.host.foreign_files import ForeignFile

T = TypeVar("T")

#: What a file is called before it is complete.
_NEW: Final = ".imgstore-"
_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Seconds for bringing a file to the disk: a stick takes some MB a second.
_SYNC: Final = 3600.0
#: Folders above another one that are looked at.
_DEEPEST: Final = 4096
#: Bytes that are copied at a time.
_PIECE: Final = 4 << 20
#: Seconds by which a time may be rounded (FAT).
_ROUNDED: Final = 2.0
#: Why a hard link cannot be made where another file system, or this one, has none.
_NO_LINK: Final = UNABLE | {errno.EXDEV, errno.EMLINK, errno.EACCES}


class Folder:
    """One folder, on a disk that may be gone: each call is made by a thread that may be left behind."""

    def __init__(self, fd: int, disk: ForeignFile) -> None:
        """`disk` makes the calls; the descriptor is open as long as that is."""
        self._fd = fd
        self._disk = disk

    def _ask(self, call: Callable[[], T], *, seconds: float | None = None) -> T:
        """Returns or raises as `call`, or as the disk's `check` meanwhile."""
        return self._disk(lambda _: call(), seconds=seconds)

    @contextmanager
    def below(self, name: str) -> Iterator[Folder]:
        """A folder in it, which is made if it is not there. Raises `OSError`, also where it is a link."""
        fd = self._ask(partial(_made_and_opened, self._fd, name))
        try:
            yield Folder(fd, self._disk)
        finally:
            self._disk.release(fd)

    def is_below(self, folder: Path) -> bool:
        """Whether it is that folder of the daemon's, or in it, by whatever way somebody got there."""
        try:
            wanted = folder.stat()
        except FileNotFoundError:
            return False
        return self._ask(partial(_is_below, self._fd, wanted))

    def lock(self) -> None:
        """Locks it for this process's descriptor. Raises `BlockingIOError` where somebody else has."""
        self._ask(partial(try_flock, self._fd))

    def names(self) -> list[str]:
        """The names in it."""
        return self._ask(partial(os.listdir, self._fd))

    def tidy(self) -> None:
        """Removes what an earlier run left half made."""
        self._ask(partial(_tidy, self._fd))

    def put(self, name: str, data: bytes) -> bool:
        """Makes a file with this content, unless it has it. Whether it did. Raises `OSError`."""
        return self._ask(partial(_put, self._fd, name, data), seconds=_SYNC)

    def place(self, name: str, source: Path, check: Callable[[int], None]) -> int | None:
        """Makes `source`'s file appear here, by a hard link where that can be, else a copy.

        Returns the bytes that were copied, 0 for a link, and None where it is there already. `check` hears
        how many bytes have been copied, and may raise. Raises `OSError`.
        """
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = os.fstat(file)
            there = self._ask(partial(_status, self._fd, name))
            if there is not None and (_same(there, wanted) or _alike(there, wanted)):
                return None
            # The link has the permissions of the file, which is in a folder of the daemon's own.
            set_mode(file, 0o644)
            if self._ask(partial(_linked, self._fd, name, source, wanted)):
                return 0
            self._copy(name, file, wanted, check)
            return wanted.st_size
        finally:
            # A call that was given up may still read it.
            self._disk.release(file)

    def _copy(self, name: str, source: int, wanted: os.stat_result, check: Callable[[int], None]) -> None:
        new = f"{_NEW}{secrets.token_hex(8)}"
        target = self._ask(partial(os.open, new, _FRESH, 0o600, dir_fd=self._fd))
        try:
            try:
                copy = _Copy(source, target, wanted.st_size)
                while copy.done < wanted.st_size:
                    self._ask(copy.go_on)
                    check(copy.done)
                self._ask(partial(_complete, target, wanted), seconds=_SYNC)
            finally:
                self._disk.release(target)
            self._ask(partial(os.rename, new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd))
        except BaseException:
            with suppress(OSError):
                self._ask(partial(os.unlink, new, dir_fd=self._fd))
            raise

    def sync(self) -> None:
        """Brings its names to the disk. Raises `OSError`."""
        self._ask(partial(sync, self._fd), seconds=_SYNC)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with files. What cannot be removed stays."""
        with suppress(OSError):
            self._ask(partial(_remove, self._fd, name))

    def age(self, name: str, now: float) -> float:
        """Seconds since a file was changed; 0 where it is not there."""
        status = self._ask(partial(_status, self._fd, name))
        return 0.0 if status is None else now - status.st_mtime


# -- what the disk's thread does -----------------------------------------------------------------------------


def _made_and_opened(folder: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def _tidy(folder: int) -> None:
    for name in os.listdir(folder):
        if name.startswith(_NEW):
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)


def _put(folder: int, name: str, data: bytes) -> bool:
    if _content(folder, name, len(data) + 1) == data:
        return False
    new = f"{_NEW}{secrets.token_hex(8)}"
    fd = os.open(new, _FRESH, 0o600, dir_fd=folder)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            _finish(fd)
        finally:
            os.close(fd)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
    return True


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            for each in os.listdir(own):  # noqa: PTH208  (of a descriptor)
                os.unlink(each, dir_fd=own)
        finally:
            os.close(own)
        os.rmdir(name, dir_fd=folder)


def _status(folder: int, name: str) -> os.stat_result | None:
    """The status of a regular file; None for anything else."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _content(folder: int, name: str, limit: int) -> bytes | None:
    """The first bytes of a regular file; None where there is none that can be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(limit)


def _finish(fd: int) -> None:
    """Gives a new file its permissions, and brings it to the disk, before it gets its name."""
    set_mode(fd, 0o644)
    sync(fd)


def _complete(target: int, wanted: os.stat_result) -> None:
    """Finishes a copy, with its time."""
    with suppress(OSError):
        os.utime(target, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))
    _finish(target)


def _linked(folder: int, name: str, source: Path, wanted: os.stat_result) -> bool:
    new = f"{_NEW}{secrets.token_hex(8)}"
    try:
        os.link(source, new, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    try:
        made = _status(folder, new)
        if made is None or not _same(made, wanted):
            return False  # the library has another file by now
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
    return True


def _is_below(folder: int, wanted: os.stat_result) -> bool:
    at = os.dup(folder)
    try:
        for _ in range(_DEEPEST):
            here = os.fstat(at)
            if _same(here, wanted):
                return True
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = above
            if _same(os.fstat(at), here):
                return False  # the root
    finally:
        os.close(at)
    return False


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """True if it is a copy that was made before, as far as size and time tell."""
    return one.st_size == other.st_size and abs(one.st_mtime - other.st_mtime) <= _ROUNDED


class _Copy:
    """Copies a file, a piece at a time; a file system that can shares the blocks (reflink)."""

    def __init__(self, source: int, target: int, size: int) -> None:
        self.done = 0
        self._source, self._target, self._size = source, target, size
        self._by_kernel = hasattr(os, "copy_file_range")

    def go_on(self) -> None:
        """Copies the next piece. Raises `OSError`."""
        count, size = 0, min(_PIECE, self._size - self.done)
        if self._by_kernel:
            try:
                count = os.copy_file_range(self._source, self._target, size, self.done, self.done)
            except OSError as error:
                if self.done or error.errno not in UNABLE | {errno.EXDEV}:
                    raise
                self._by_kernel = False
        if not self._by_kernel:
            count = os.pwrite(self._target, os.pread(self._source, size, self.done), self.done)
        if not count:
            raise OSError(errno.EIO, "the library's file was cut short while it was copied")
        self.done += count
