"""imgadm's lock of an image: its holder may receive, publish or delete the image, in whatever pool.

It is a POSIX write lock on FOLDER/img.UUID.import.lock, as imgadm takes it; the file is never removed. Such a
lock belongs to the process, and closing any descriptor of the file gives it up. So this process has one
descriptor of a file at most, and its tasks stand in line for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from imgstored import shortage
from imgstored.errors import ConfigError, PoolError
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

#: Seconds between two tries, as imgadm waits.
_PAUSE: Final = 0.25
#: Seconds of waiting until `on_wait` is called.
_ANNOUNCE_AFTER: Final = 1.0

#: Somebody else has it; the last two also say that the kernel has no room for one lock more.
_LOCKED: Final = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.ENOLCK})


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
        there can be no lock file, `PoolError` where there is no room for one.
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
        got = self._take(check_uuid(uuid))
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
        # A thread is never left behind, and so what it took is always given back.
        while not (is_first() and await trio.to_thread.run_sync(self._take, uuid)):
            waited = True
            if on_wait is not None and trio.current_time() - began > _ANNOUNCE_AFTER:
                on_wait()
                on_wait = None
            await trio.sleep(_PAUSE)
        return waited

    def _take(self, uuid: str) -> bool:
        path = self._folder / f"img.{uuid}.import.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._mutex:
            if uuid in self._taken:
                return False
            try:
                fd = os.open(path, flags, 0o644)
            except OSError as error:
                raise self._unusable(error, path) from error
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno in _LOCKED:
                    return False
                raise self._unusable(error, path) from error
            self._taken[uuid] = fd
            return True

    def _give_up(self, uuid: str) -> None:
        with self._mutex:
            os.close(self._taken.pop(uuid))

    def _unusable(self, error: OSError, path: Path | None = None) -> ConfigError | PoolError:
        if shortage.is_full(error):
            return PoolError(
                f"no room for the lock file {path or self._folder}: {shortage.why(error)}",
                hint="make room on the file system that it is on",
            )
        what = f"the folder {self._folder}" if path is None else f"the lock file {path}"
        return ConfigError(
            f"imgadm_locks: {what} cannot be used: {error.strerror}",
            hint="imgstored must be able to write in the folder that this key of its configuration names",
        )
