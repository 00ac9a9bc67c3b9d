"""A folder that may be another user's, which root writes to: by descriptors, and never through a link.

Every file appears by a rename, complete and on the disk. Whoever owns the folder may do what they like in it;
they can spoil the site, and reach nothing outside it. All calls block.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from imgstored.host.filesystem import UNABLE, set_mode, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: What a file is called before it is complete.
_NEW: Final = ".imgstore-"
#: Bytes that are copied at a time.
_PIECE: Final = 4 << 20
#: Seconds by which a time may be rounded (FAT).
_ROUNDED: Final = 2.0
#: Why a hard link cannot be made where another file system, or this one, has none.
_NO_LINK: Final = UNABLE | {errno.EXDEV, errno.EMLINK, errno.EACCES}


class Folder:
    """One folder. The descriptor is the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @contextmanager
    def below(self, name: str) -> Iterator[Folder]:
        """A folder in it, which is made if it is not there. Raises `OSError`, also where it is a link."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self.fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            yield Folder(fd)
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        """What is in it."""
        return os.listdir(self.fd)  # noqa: PTH208  (of a descriptor)

    def tidy(self) -> None:
        """Removes what an earlier run left half made."""
        for name in self.names():
            if name.startswith(_NEW):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self.fd)

    def put(self, name: str, data: bytes) -> bool:
        """Makes a file with this content, unless it has it. Whether it did. Raises `OSError`."""
        if self._content(name, len(data) + 1) == data:
            return False
        with self._new(name) as fd:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        return True

    def place(self, name: str, source: Path, check: Callable[[int], None]) -> int | None:
        """Makes `source`'s file appear here, by a hard link where that can be, else a copy.

        Returns the bytes that were copied, 0 for a link, and None where it is there already. `check` hears
        how many bytes have been copied, and may raise. Raises `OSError`.
        """
        with source.open("rb") as file:
            wanted = os.fstat(file.fileno())
            there = self._status(name)
            if there is not None and (_same(there, wanted) or _alike(there, wanted)):
                return None
            # The link has the permissions of the file, which is in a folder of the daemon's own.
            set_mode(file.fileno(), 0o644)
            if self._linked(name, source, wanted):
                return 0
            with self._new(name) as fd:
                _copy(file.fileno(), fd, wanted.st_size, check)
                with suppress(OSError):
                    os.utime(fd, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))
        return wanted.st_size

    def sync(self) -> None:
        """Brings its names to the disk. Raises `OSError`."""
        sync(self.fd)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with files. What cannot be removed stays."""
        with suppress(OSError):
            try:
                os.unlink(name, dir_fd=self.fd)
            except (IsADirectoryError, PermissionError):
                with self.below(name) as folder:
                    for each in folder.names():
                        os.unlink(each, dir_fd=folder.fd)
                os.rmdir(name, dir_fd=self.fd)

    def age(self, name: str, now: float) -> float:
        """Seconds since a file was changed; 0 where it is not there."""
        status = self._status(name)
        return 0.0 if status is None else now - status.st_mtime

    # -- the parts -------------------------------------------------------------------------------------------

    def _status(self, name: str) -> os.stat_result | None:
        """The status of a regular file; None for anything else."""
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _content(self, name: str, limit: int) -> bytes | None:
        """The first bytes of a regular file; None where there is none that can be read."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return file.read(limit)

    @contextmanager
    def _new(self, name: str) -> Iterator[int]:
        """A new file to be written, which gets its name when the block ends well."""
        new = f"{_NEW}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600, dir_fd=self.fd)
        try:
            try:
                yield fd
                set_mode(fd, 0o644)
                sync(fd)
            finally:
                os.close(fd)
            os.rename(new, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=self.fd)
            raise

    def _linked(self, name: str, source: Path, wanted: os.stat_result) -> bool:
        new = f"{_NEW}{secrets.token_hex(8)}"
        try:
            os.link(source, new, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        try:
            made = self._status(new)
            if made is None or not _same(made, wanted):
                return False  # the library has another file by now
            os.rename(new, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        finally:
            with suppress(OSError):
                os.unlink(new, dir_fd=self.fd)
        return True


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is a copy that was made before, as far as size and time tell."""
    return one.st_size == other.st_size and abs(one.st_mtime - other.st_mtime) <= _ROUNDED


def _copy(source: int, target: int, size: int, check: Callable[[int], None]) -> None:
    """Copies a file; a file system that can shares the blocks (reflink). Raises `OSError`."""
    done, by_kernel = 0, hasattr(os, "copy_file_range")
    while done < size:
        count = 0
        if by_kernel:
            try:
                count = os.copy_file_range(source, target, min(_PIECE, size - done), done, done)
            except OSError as error:
                if done or error.errno not in UNABLE | {errno.EXDEV}:
                    raise
                by_kernel = False
        if not by_kernel:
            count = os.pwrite(target, os.pread(source, min(_PIECE, size - done), done), done)
        if not count:
            raise OSError(errno.EIO, "the library's file was cut short while it was copied")
        done += count
        check(done)
