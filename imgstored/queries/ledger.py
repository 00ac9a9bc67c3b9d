"""A database of the state folder in which the daemon writes down what happens, in order.

A thread makes one change after the other. If the disk is full or fails at the start, the database is opened
later, and gets the changes that waited for it. If it cannot be written, the log says so, and nothing else
stops.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio
from msgspec import Struct

from imgstored import lanes
from imgstored.errors import PoolError
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.database import connect_again, open_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.state.database import Layout

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Seconds between two tries to open it.
_PAUSE: Final = 5.0


class _Connections(Struct, frozen=True):
    """The open file. Writing never waits for reading, because readers have their own connection (WAL)."""

    writer: sqlite3.Connection
    readers: sqlite3.Connection

    @classmethod
    def to(cls, path: Path, layout: Layout, aside: Aside) -> _Connections:
        """Opens both, or none. Blocks. Raises as `open_database` does."""
        writer = open_database(path, layout, aside)
        try:
            readers = connect_again(path)
        except BaseException:
            writer.close()
            raise
        return cls(writer, readers)

    def close(self) -> None:
        """Closes both."""
        self.readers.close()
        self.writer.close()


class Ledger:
    """The file. Changes are written down in order while `run` is running. For trio's thread."""

    def __init__(
        self, path: Path, layout: Layout, aside: Aside | None = None, *, what: str, pending: int
    ) -> None:
        """Opens or creates the file, or brings an older one up to date. Damaged parts go to `aside`.

        `what` is its name in log lines. While the file is not open, the newest `pending` changes are kept.
        Raises `ConfigError` if a newer daemon has written the file, or this user may not open it.
        """
        self._path = path
        self._layout = layout
        self._what = what
        self._aside = aside or Aside(path.parent / DAMAGED)
        self.fault: PoolError | None = None  #: why it is not open
        self._opened: _Connections | None = None
        self._open()
        self._reading = trio.Lock()
        # Fair, so that a reader finds everything that ended before.
        self._lock = trio.Lock()
        self._writer = trio.CapacityLimiter(1)
        self._pending: deque[Callable[[], None]] = deque(maxlen=pending)
        self._some = trio.Event()

    def close(self) -> None:
        """Closes the file. Changes that were not flushed are lost."""
        if self._opened is not None:
            self._opened.close()

    def _open(self) -> None:
        """Opens the file, or sets `fault` to the reason why that has to wait. Blocks."""
        try:
            self._opened = _Connections.to(self._path, self._layout, self._aside)
        except PoolError as error:
            if self.fault is None or self.fault.message != error.message:
                log.error(f"the {self._what} waits", error=error.message, hint=error.hint)
            self.fault = error
        else:
            self.fault = None

    @property
    def _db(self) -> sqlite3.Connection:
        return self._connections().writer

    @property
    def _readers(self) -> sqlite3.Connection:
        return self._connections().readers

    def _connections(self) -> _Connections:
        if self._opened is None:
            raise sqlite3.OperationalError("it is not open" if self.fault is None else self.fault.message)
        return self._opened

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Makes changes until it is cancelled, and then the remaining ones."""
        try:
            task_status.started()
            while True:
                with trio.move_on_after(float("inf") if self.fault is None else _PAUSE):
                    await self._some.wait()
                self._some = trio.Event()
                if self.fault is not None:
                    await self._try_again()
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()

    def add(self, change: Callable[[], None]) -> None:
        """Calls `change` soon, in the writing thread."""
        self._pending.append(change)
        self._some.set()

    async def flush(self) -> None:
        """Returns once all earlier changes are made, if that is possible."""
        async with self._lock:
            while self._pending and self._opened is not None:
                try:
                    await trio.to_thread.run_sync(self._pending[0], limiter=self._writer)
                except (sqlite3.Error, ValueError, OverflowError) as error:
                    # ValueError and OverflowError: sqlite3 does not accept a value.
                    log.warning(f"the {self._what} cannot be written", error=str(error))
                self._pending.popleft()

    async def _try_again(self) -> None:
        async with self._lock:
            await trio.to_thread.run_sync(self._open, limiter=self._writer)

    async def _read(self, read: Callable[[], list[T]]) -> list[T]:
        """The result of `read`, in a thread, after all earlier changes; empty if the file cannot be read."""
        await self.flush()
        if self._opened is None:
            return []  # `fault` has the reason
        async with self._reading:
            try:
                return await lanes.in_thread(read)
            except sqlite3.Error as error:
                log.warning(f"the {self._what} cannot be read", error=str(error))
                return []
