"""The socket in the file system: created without a race, taken over if stale, removed if it is ours."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from imgstored.errors import ConfigError
from imgstored.host import filesystem, shortage

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

#: Connections that wait to be accepted; the kernel has a limit of its own.
BACKLOG = 512
#: Seconds in which a process that has the socket must show that it is alive.
_PROBE_SECONDS = 2.0

_IN_USE_HINT = "stop it first, or give this one another socket.path"


class Identity(Struct, frozen=True):
    """The identity of a file, whatever its name."""

    device: int
    inode: int


class Listening:
    """A Unix socket that listens, and its name. The caller closes it."""

    def __init__(self, bound: socket.socket, path: Path, identity: Identity | None, lock: int) -> None:
        self.socket = bound
        self._path = path
        self._identity = identity
        self._lock = lock
        self._closed = False

    def close(self) -> None:
        """Stops listening and removes the name, unless another process has it by now. May be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._identity is not None and _identity(self._path) == self._identity:
                self._path.unlink()
            else:
                log.warning("the socket was replaced or removed by somebody else", path=str(self._path))
        except OSError as error:
            log.warning("the socket cannot be removed", path=str(self._path), error=str(error))
        finally:
            self.socket.close()
            os.close(self._lock)


def listen(path: Path, *, mode: int, group_gid: int | None, key: str = "socket.path") -> Listening:
    """Listens at `path`, with these permissions from the first connection on.

    Nobody can connect between `bind` and `listen`, so permissions are set there. A lock file next to the
    socket keeps two daemons from taking over the same stale name at the same time; it stays, because its
    removal would bring that race back. `key` is the path's key in the configuration. Raises `ConfigError` if
    another daemon listens, or the socket cannot be created.
    """
    try:
        _make_folder(path.parent)
        lock = _lock(path, key)
        try:
            return _listen_locked(path, mode, group_gid, lock, key)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        shortage.explain(error, path)
        raise ConfigError(
            f"{key}: cannot listen at {path}: {shortage.why(error)}",
            hint="the folder must exist and be writable for the daemon, and the path shorter than 100 bytes",
        ) from error


def _make_folder(folder: Path) -> None:
    """Makes a folder that all users can pass through; an existing one keeps its permissions."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(0o755)


def _listen_locked(path: Path, mode: int, group_gid: int | None, lock: int, key: str) -> Listening:
    _remove_stale(path, key)
    with ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.bind(str(path))
        undo.callback(path.unlink, missing_ok=True)
        if group_gid is not None:
            os.chown(path, -1, group_gid, follow_symlinks=False)
        path.chmod(mode)
        identity = _identity(path)
        bound.listen(BACKLOG)
        undo.pop_all()
    return Listening(bound, path, identity, lock)


def _lock(path: Path, key: str) -> int:
    """An open descriptor that holds the lock, which ends with the process."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, flags, 0o600)
    try:
        filesystem.try_flock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(f"another imgstored is listening at {path}", hint=_IN_USE_HINT) from error
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"{key}: {lock} cannot be locked: {shortage.why(error)}", hint=filesystem.LOCKS_HINT
        ) from error
    return descriptor


def _remove_stale(path: Path, key: str) -> None:
    """Removes a socket without a listener. Raises `ConfigError` if anything else is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(
            f"{key}: {path} exists, and is not a socket",
            hint=f"remove it, or choose another {key}",
        )
    if _is_alive(path):
        raise ConfigError(f"another imgstored is listening at {path}", hint=_IN_USE_HINT)
    log.info("taking over the socket of a daemon that is gone", path=str(path))
    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Too busy, of another type, or not for us: a process is there.
            return True
        return True


def _identity(path: Path) -> Identity | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return Identity(found.st_dev, found.st_ino)
