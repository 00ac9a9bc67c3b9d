"""Locks, permissions, the sync of files and folders, and durable files, on any file system.

Network and virtual file systems lack some of the calls. The daemon does without a call that only makes files
safer. It does not do without a lock, and the error says so in one sentence.

After a power cut names may be on the disk in another order than they were made, and the files in a folder
without the folder. So each step that another one builds on is synced before that.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = structlog.get_logger(__name__)

#: What a kernel or a file system answers that cannot do a thing at all; ENOTSUP is EOPNOTSUPP on Linux only.
UNABLE: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM}
)

#: The end of a file's name before it is renamed to its own.
NEW: Final = ".new"

#: The answers about a lock that somebody else has. POSIX leaves EAGAIN or EACCES to the system.
_LOCKED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})

#: What to do about a lock that there cannot be.
LOCKS_HINT: Final = (
    "the file system must have locks: choose a folder on a local one; NFS needs a running lockd and statd"
)


def try_flock(fd: int) -> None:
    """Locks a file for this descriptor (BSD), until it is closed.

    Raises `BlockingIOError` when somebody else has the lock, and another `OSError` where there are no locks.
    """
    _try(fcntl.flock, fd)


def try_lockf(fd: int) -> None:
    """Locks a whole file for this process (POSIX), until it closes any descriptor of the file.

    Raises as `try_flock` does.
    """
    _try(fcntl.lockf, fd)


def _try(lock: Callable[[int, int], None], fd: int) -> None:
    try:
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            raise BlockingIOError(error.errno, os.strerror(error.errno)) from error
        raise


def lacks_locks(error: BaseException | None) -> bool:
    """True if the error means that there is no lock to be had, for now or ever."""
    return isinstance(error, OSError) and (error.errno == errno.ENOLCK or error.errno in UNABLE)


def sync(fd: int) -> None:
    """Brings an open file or folder to the disk. Raises `OSError` when that fails.

    Where the file system cannot do it at all, as many cannot for a folder, the log says so once.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        # EBADF is also the answer to a descriptor that is not open; then this raises, too.
        _cannot_sync(os.fstat(fd).st_dev, os.strerror(error.errno))


def sync_all(fd: int) -> None:
    """Brings all of the file system of an open file to the disk: for many small files, faster than each."""
    if sys.platform == "linux":
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        if syncfs(fd):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    else:
        os.sync()


@functools.lru_cache(maxsize=256)
def _cannot_sync(device: int, why: str) -> None:
    log.warning(
        "a file system cannot be synced: a power cut may undo what was done last",
        device=f"{os.major(device)}:{os.minor(device)}",
        error=why,
    )


def set_mode(fd: int, mode: int) -> None:
    """Gives a file of ours its permissions; it keeps those that it has where the file system has none."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        os.fstat(fd)  # as for `sync`


def set_times(path: str | os.PathLike[str], accessed_ns: int, modified_ns: int) -> None:
    """Sets a file's times, in nanoseconds since the epoch, where the file system can do that."""
    try:
        os.utime(path, ns=(accessed_ns, modified_ns))
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes `data` beside `path` and renames it there; it is on the disk when this returns.

    Raises `OSError`. One writer of a path at a time. Where the file system cannot sync, or keeps no
    permissions, the file is written all the same.
    """
    new = path.with_name(path.name + NEW)
    # Never through a link that lies in wait, nor into a file that somebody has open.
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            set_mode(fd, mode)
            sync(fd)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, and it is gone from the disk when this returns. Raises `OSError`."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def make_folder(path: Path, *, mode: int) -> None:
    """Makes a folder that is not there, and those above it; it is on the disk when this returns.

    Its name is synced also where it is there: who made it may have died before. Raises `OSError`.
    """
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in reversed(missing):
        # Whoever may not read the folder above cannot sync it.
        with suppress(PermissionError):
            sync_folder(each.parent)


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk. Raises `OSError`."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Removes what a process that died in `replace_file` left in a folder that is this process's alone.

    Does nothing where there is no folder. Raises `OSError`.
    """
    with suppress(FileNotFoundError):
        for path in list(folder.glob(f"*{NEW}")):
            if not path.is_dir():
                path.unlink(missing_ok=True)
