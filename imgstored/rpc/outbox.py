"""The queue of messages to one client. Never holds more than its limit and one message of each who waits."""

from __future__ import annotations

from collections import deque

import trio
from msgspec import Struct


class _Entry(Struct, eq=False):
    data: bytes
    progress_of: int | None = None


class Outbox:
    """Messages in the order in which they came in; progress is replaced by newer progress while it waits.

    One task takes, any number put in. All are in trio's thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[_Entry] = deque()
        self._progress: dict[int, _Entry] = {}  # by request, as long as nothing of that request follows it
        self._size = 0
        self._finished = False
        self._arrived = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    async def wait_for_space(self) -> None:
        """Waits until something may be put in; do so before the next checkpoint."""
        while self._size >= self._limit:
            await self._waiting.park()

    def put(self, request: int | None, data: bytes) -> None:
        """Appends a message, which belongs to a request or to the connection as a whole."""
        if request is not None:
            # Progress that comes later says more than this message, and must not be sent before it.
            self._progress.pop(request, None)
        self._append(_Entry(data))

    def put_progress(self, request: int, data: bytes) -> None:
        """Takes the place of the request's progress that waits, if nothing of that request came after it."""
        waiting = self._progress.get(request)
        if self._finished:
            return
        if waiting is None:
            self._progress[request] = entry = _Entry(data, request)
            self._append(entry)
        else:
            self._size += len(data) - len(waiting.data)
            waiting.data = data

    def finish(self) -> None:
        """Says that nothing more will come in; what does is dropped."""
        self._finished = True
        self._arrived.set()

    async def take(self) -> bytes | None:
        """The next message; None when there are no more and there will be none."""
        while not self._entries:
            if self._finished:
                return None
            self._arrived = trio.Event()
            await self._arrived.wait()
        entry = self._entries.popleft()
        if entry.progress_of is not None and self._progress.get(entry.progress_of) is entry:
            del self._progress[entry.progress_of]
        self._size -= len(entry.data)
        if self._size < self._limit:
            self._waiting.unpark_all()
        return entry.data

    def _append(self, entry: _Entry) -> None:
        if self._finished:
            return
        self._entries.append(entry)
        self._size += len(entry.data)
        self._arrived.set()
