"""imgadm's lock of an image: its holder may receive, publish or delete the image, in whatever pool.

It is a POSIX write lock on FOLDER/img.UUID.import.lock, as imgadm takes it; the file is never removed. Such a
lock belongs to the process, and closing any descriptor of the file gives it up. So this process has one
descriptor of a file at most, and its tasks stand in line for it.
"""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from imgstored.errors import ConfigError, PoolError
from imgstored.host import filesystem, shortage
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

#: Seconds between two tries, as imgadm waits.
_PAUSE: Final = 0.25
#: Seconds of waiting until `on_wait` is called.
_ANNOUNCE_AFTER: Final = 1.0

#: How many tries in a row may find that there is no lock at all (ENOLCK). The kernel may have no room for one
#: more, which passes; or the file system has none, which does not.
_TRIES: Final = 40


class _NoLockError(Exception):
    """The lock is nobody's, and cannot be had; its cause says why."""


class ImageLocks:
    """The locks in one folder. At most one object a folder in a process."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where it is not there. Raises `ConfigError`."""
        self._folder = folder
        self._mutex = threading.Lock()
        self._taken: dict[str, int] = {}  # descriptors by uuid
        self._queues: dict[str, list[object]] = {}  # who is first has the lock, or tries to get it
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    @asynccontextmanager
    async def held(self, uuid: str, on_wait: Callable[[], None] | None = None) -> AsyncIterator[bool]:
        """Holds an image's lock for the block; gives whether it had to wait for it.

        Waits as long as it takes, and can be cancelled; `on_wait` is called once if it takes more than a
        second. Those of this process take turns in the order in which they came. Raises `ConfigError` where
        there can be no lock file, or no lock of it for ten seconds, `PoolError` where there is no room for
        the file.
        """
        queue = self._queues.setdefault(check_uuid(uuid), [])
        ticket = object()
        queue.append(ticket)
        try:
            waited = await self._wait(uuid, lambda: queue[0] is ticket, on_wait)
            try:
                yield waited
            finally:
                self._give_up(uuid)
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

    async def _wait(
        self, uuid: str, is_first: Callable[[], bool], on_wait: Callable[[], None] | None
    ) -> bool:
        """Returns with the lock."""
        waited, began = False, trio.current_time()
        tries = 0
        while True:
            try:
                # A thread is never left behind, and so what it took is always given back.
                if is_first() and await trio.to_thread.run_sync(self._take, uuid):
                    return waited
                tries = 0
            except _NoLockError as error:
                tries += 1
                if tries == _TRIES:
                    raise self._unlockable(uuid, error.__cause__) from error.__cause__
            waited = True
            if on_wait is not None and trio.current_time() - began > _ANNOUNCE_AFTER:
                on_wait()
                on_wait = None
            await trio.sleep(_PAUSE)

    def _take(self, uuid: str) -> bool:
        path = self._path(uuid)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._mutex:
            if uuid in self._taken:
                return False
            try:
                fd = os.open(path, flags, 0o644)
            except OSError as error:
                raise self._unusable(error, path) from error
            try:
                filesystem.try_lockf(fd)
            except BlockingIOError:
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
