"""imgadm's lock of an image: its holder may receive, publish or delete the image, in any pool.

It is a POSIX write lock on FOLDER/img.UUID.import.lock, as imgadm takes it; the file is never removed. Such a
lock belongs to the process, and closing any descriptor of the file releases it. So this process has at most
one descriptor of a file, and its tasks queue for it.

Everybody who can read the file can block that lock by a read lock, and imgadm lets all users read it. imgadm
runs as root, as the daemon does, so the daemon makes the file private to root. A process that opened the file
before can still lock it; the daemon waits less long for such a process than for imgadm.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored.errors import ConfigError, ImageLockedError, PoolError
from imgstored.host import filesystem, lock_holders, shortage
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from imgstored.host.lock_holders import Holder

log = structlog.get_logger(__name__)

#: Seconds between two tries, as in imgadm.
_PAUSE: Final = 0.25
#: Seconds of waiting until `on_wait` is called.
_ANNOUNCE_AFTER: Final = 1.0

#: Seconds that a change of an installed image waits, and an import: imgadm may import an image for hours.
TIMEOUT: Final = 60.0
IMPORT_TIMEOUT: Final = 6 * 3600.0
#: Seconds to wait for a lock that cannot be imgadm's: another user's, or a read lock.
_FOREIGN_TIMEOUT: Final = 15.0

#: Locks that are tried at the same time. A try takes a moment, unless the file system does not answer.
_THREADS: Final = 8

#: Tries in a row that may find no locks at all (ENOLCK). The kernel may have no room for one more lock, which
#: passes; or the file system has no locks, which does not.
_TRIES: Final = 40


_TRY_AGAIN: Final = "try again when that process is done with the image, or end it"
_END_IT: Final = "this is no imgadm: end that process, or have it close the file"


class _NoLockError(Exception):
    """Nobody has the lock, and still it cannot be taken; the exception's cause says why."""


class ImageLocks:
    """The locks in one folder. A process has at most one object per folder."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it does not exist. Raises `ConfigError`."""
        self._folder = folder
        self._mutex = threading.Lock()
        self._taken: dict[str, int] = {}  # descriptors by uuid
        self._queues: dict[str, list[object]] = {}  # by uuid; the first has the lock, or tries to get it
        self._threads = trio.CapacityLimiter(_THREADS)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    @asynccontextmanager
    async def held(
        self,
        uuid: str,
        on_wait: Callable[[str], None] | None = None,
        *,
        seconds: float = TIMEOUT,
    ) -> AsyncIterator[bool]:
        """Holds an image's lock for the block; gives True if it had to wait for the lock.

        Waits up to `seconds`, less for a lock that cannot be imgadm's, and can be cancelled; calls `on_wait`
        once, with the name of the holder, if that takes more than a second. Tasks of this process take turns
        in the order of their calls. Raises `ImageLockedError` after too long a wait, `ConfigError` if there
        can be no lock file, or no lock of it for ten seconds, `PoolError` if there is no room for the file.
        """
        queue = self._queues.setdefault(check_uuid(uuid), [])
        ticket = object()
        queue.append(ticket)
        try:
            waited = await self._wait(_Wait(uuid, seconds, on_wait), lambda: queue[0] is ticket)
            try:
                yield waited
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._give_up, uuid, limiter=self._threads)
        finally:
            queue.remove(ticket)
            if not queue:
                del self._queues[uuid]

    @contextmanager
    def tried(self, uuid: str) -> Iterator[bool]:
        """Holds the lock for the block if nobody has it, or else gives False. For any thread; never waits.

        Raises as `held` does.
        """
        try:
            got = self._take(check_uuid(uuid))
        except _NoLockError:
            got = False
        try:
            yield got
        finally:
            if got:
                self._give_up(uuid)

    async def _wait(self, wait: _Wait, is_first: Callable[[], bool]) -> bool:
        """Waits for the lock, and takes it; returns True if it had to wait."""
        tries = 0
        while True:
            try:
                # The thread is never abandoned, so a lock that it takes is always released.
                take = partial(self._take, wait.uuid, wait.found)
                if is_first() and await trio.to_thread.run_sync(take, limiter=self._threads):
                    return wait.waited
                tries = 0
            except _NoLockError as error:
                tries += 1
                if tries == _TRIES:
                    raise self._unlockable(wait.uuid, error.__cause__) from error.__cause__
            wait.check(self._path(wait.uuid), first=is_first())
            await trio.sleep(_PAUSE)

    def _take(self, uuid: str, found: Callable[[Holder | None], None] = lambda _: None) -> bool:
        """Takes the lock; False if another process has it, which `found` gets. Blocks."""
        path = self._path(uuid)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._mutex:
            if uuid in self._taken:
                return False
            try:
                fd = os.open(path, flags, 0o600)
            except OSError as error:
                raise self._unusable(error, path) from error
            try:
                _make_private(fd)
                filesystem.try_lockf(fd)
            except BlockingIOError:
                found(lock_holders.of_lockf(fd))
                os.close(fd)
                return False
            except OSError as error:
                os.close(fd)
                if filesystem.lacks_locks(error):
                    raise _NoLockError from error
                raise self._unusable(error, path) from error
            self._taken[uuid] = fd
            return True

    def _give_up(self, uuid: str) -> None:
        with self._mutex:
            os.close(self._taken.pop(uuid))

    def _path(self, uuid: str) -> Path:
        return self._folder / f"img.{uuid}.import.lock"

    def _unlockable(self, uuid: str, error: BaseException | None) -> ConfigError:
        why = shortage.why(error) if isinstance(error, OSError) else "unknown cause"
        return ConfigError(
            f"imgadm_locks: the lock file {self._path(uuid)} cannot be locked: {why}",
            hint=filesystem.LOCKS_HINT,
        )

    def _unusable(self, error: OSError, path: Path | None = None) -> ConfigError | PoolError:
        if shortage.is_full(error):
            return PoolError(
                f"no space for the lock file {path or self._folder}: {shortage.why(error)}",
                hint="free space on its file system",
            )
        what = f"the folder {self._folder}" if path is None else f"the lock file {path}"
        return ConfigError(
            f"imgadm_locks: {what} cannot be used: {shortage.why(error)}",
            hint="imgstored must be able to write to the folder of this configuration key",
        )


class _Wait:
    """One wait for a lock: its holder, its length, and whether it was announced."""

    def __init__(self, uuid: str, seconds: float, on_wait: Callable[[str], None] | None) -> None:
        self.uuid = uuid
        self.waited = False
        self._seconds = seconds
        self._on_wait = on_wait
        self._began = trio.current_time()
        self._holder: Holder | None = None
        self._announced = False

    def found(self, holder: Holder | None) -> None:
        """Takes note of the process that has the lock."""
        self._holder = holder

    def check(self, path: Path, *, first: bool) -> None:
        """Announces the holder, once. Raises `ImageLockedError` after too long a wait."""
        self.waited = True
        taken = trio.current_time() - self._began
        who = self._who(first=first)
        if taken > _ANNOUNCE_AFTER and not self._announced:
            self._announced = True
            log.info("waiting for an image's lock", uuid=self.uuid, held_by=who)
            if self._on_wait is not None:
                self._on_wait(who)
        holder = self._holder if first else None
        # imgadm takes write locks only, and runs as root.
        wrong = holder is not None and (holder.foreign or holder.shared)
        if taken > (min(_FOREIGN_TIMEOUT, self._seconds) if wrong else self._seconds):
            log.warning("gave up waiting for an image's lock", uuid=self.uuid, held_by=who, seconds=taken)
            raise ImageLockedError(
                f'image "{self.uuid}" is locked: {path} is held by {who}',
                hint=_END_IT if wrong else _TRY_AGAIN,
                data={} if holder is None else {"pid": holder.pid},
            )

    def _who(self, *, first: bool) -> str:
        if not first:
            return "another request of this imgstored"
        return "an unknown process" if self._holder is None else str(self._holder)


def _make_private(fd: int) -> None:
    """Makes the file private if it belongs to root or to the daemon's own user."""
    status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) & 0o077 and status.st_uid in (0, os.geteuid()):
        filesystem.set_mode(fd, 0o600)
