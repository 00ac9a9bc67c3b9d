"""Locks, permissions, the sync of files and folders, and durable files, on any file system.

Network and virtual file systems lack some of the calls. The daemon does without calls that only make files
safer, but not without locks: then an error says so in one sentence.

After a power cut names may be on the disk in another order than that of their creation, and the files of a
folder without the folder. So each step is synced before a step that depends on it.
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

#: Errors of a kernel or a file system that lacks a call; only on Linux is ENOTSUP the same as EOPNOTSUPP.
UNABLE: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM}
)

#: The ending of a temporary file's name, before it is renamed.
NEW: Final = ".new"

#: Errors for a lock that another process has. POSIX leaves EAGAIN or EACCES to the system.
_LOCKED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})

#: The hint about a file system without locks.
LOCKS_HINT: Final = (
    "the file system must have locks: choose a folder on a local one; NFS needs a running lockd and statd"
)


def try_flock(fd: int) -> None:
    """Locks a file for this descriptor (BSD), until it is closed.

    Raises `BlockingIOError` if another process has the lock, and another `OSError` if there are no locks.
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
    """True if the error means that the file system gives no locks, for now or at all."""
    return isinstance(error, OSError) and (error.errno == errno.ENOLCK or error.errno in UNABLE)


def sync(fd: int) -> None:
    """Brings an open file or folder to the disk. Raises `OSError` if that fails.

    If the file system cannot do it at all, as many cannot for folders, the log says so once.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        # EBADF may also mean that the descriptor is not open; then this raises, too.
        _cannot_sync(os.fstat(fd).st_dev, os.strerror(error.errno))


def sync_all(fd: int) -> None:
    """Syncs the whole file system of an open file: for many small files faster than syncing each."""
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
    """Sets the permissions of a file of ours; does nothing on a file system without permissions."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        os.fstat(fd)  # as for `sync`


def set_times(path: str | os.PathLike[str], accessed_ns: int, modified_ns: int) -> None:
    """Sets a file's times, in nanoseconds since the epoch; does nothing if the file system cannot."""
    try:
        os.utime(path, ns=(accessed_ns, modified_ns))
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes `data` to a temporary file, and renames it to `path`; it is on the disk when this returns.

    Raises `OSError`. A path has one writer at a time. On a file system that cannot sync, or has no
    permissions, it writes the file without these.
    """
    new = path.with_name(path.name + NEW)
    # Never through a link that lies in wait, nor into a file that another process has open.
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
    """Removes a file, if it exists, durably: it is gone from the disk when this returns. Raises `OSError`."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def make_folder(path: Path, *, mode: int) -> None:
    """Makes a folder, if it does not exist, and those above it; it is on the disk when this returns.

    Also syncs the name of an existing folder: its maker may have died before that. Raises `OSError`.
    """
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in reversed(missing):
        # A process that may not read the folder above cannot sync it.
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
    """Removes temporary files that a dead process left in `replace_file`.

    No other process may use the folder. Does nothing if there is no folder. Raises `OSError`.
    """
    with suppress(FileNotFoundError):
        for path in list(folder.glob(f"*{NEW}")):
            if not path.is_dir():
                path.unlink(missing_ok=True)
