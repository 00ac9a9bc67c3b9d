"""The queue of messages to one client: at most its limit, and one message of each waiting task."""

from __future__ import annotations

from collections import deque

import trio
from msgspec import Struct

#: Pending bytes of a message in pieces at which its next piece has to wait.
_STREAM = 256 << 10


class _Entry(Struct, eq=False):
    data: bytes
    progress_of: int | None = None


class Stream:
    """A message that is put in piece by piece. Messages behind it wait until it is whole."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.pieces: deque[bytes] = deque()
        self.size = 0  #: pending bytes
        self.taken = False  #: a part of it was taken
        self.closed = False
        self.room = trio.lowlevel.ParkingLot()

    async def put(self, piece: bytes) -> None:
        """Appends a piece, once there is room for it."""
        await trio.lowlevel.checkpoint()
        while self.size >= _STREAM:
            await self.room.park()
        self._outbox.add_piece(self, piece)

    def close(self) -> None:
        """Says that the message is whole."""
        self.closed = True
        self._outbox.wake()


class Outbox:
    """Messages in the order of their arrival; newer progress replaces pending progress.

    One task takes messages, and any number of tasks put them in. All are in trio's thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[_Entry | Stream] = deque()
        self._progress: dict[int, _Entry] = {}  # by request, unless a later message of it is pending
        self._size = 0
        self._finished = False
        self._arrived = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def size(self) -> int:
        """The number of pending bytes."""
        return self._size

    async def wait_for_space(self) -> None:
        """Waits until a message may be put in; the caller must do so before the next checkpoint."""
        while self._size >= self._limit:
            await self._waiting.park()

    def put(self, request: int | None, data: bytes) -> None:
        """Appends a message, which belongs to a request or to the connection as a whole."""
        if request is not None:
            # Later progress must not be sent before this message.
            self._progress.pop(request, None)
        self._append(_Entry(data))

    def put_progress(self, request: int, data: bytes) -> None:
        """Replaces the request's pending progress, unless another message of the request came after it."""
        waiting = self._progress.get(request)
        if self._finished:
            return
        if waiting is None:
            self._progress[request] = entry = _Entry(data, request)
            self._append(entry)
        else:
            self._size += len(data) - len(waiting.data)
            waiting.data = data

    def open(self, request: int) -> Stream:
        """Begins a message in pieces; the caller closes it, or breaks it off."""
        self._progress.pop(request, None)
        stream = Stream(self)
        if not self._finished:
            self._entries.append(stream)
        return stream

    def break_off(self, stream: Stream) -> None:
        """Drops a message that will never be whole. If some of it was sent, nothing can follow."""
        self._size -= stream.size
        stream.pieces.clear()
        if stream in self._entries and not stream.taken:
            self._entries.remove(stream)
            return
        self._entries.clear()
        self.finish()

    def add_piece(self, stream: Stream, piece: bytes) -> None:
        """Adds one part of a stream; `Stream.put` calls it."""
        if self._finished:
            return
        stream.pieces.append(piece)
        stream.size += len(piece)
        self._size += len(piece)
        self.wake()

    def wake(self) -> None:
        """Wakes the task that takes messages."""
        self._arrived.set()

    def finish(self) -> None:
        """Declares the queue complete; later messages are dropped."""
        self._finished = True
        self._arrived.set()

    async def take(self) -> bytes | None:
        """The next message; None at the end of a finished queue."""
        while (entry := self._next()) is None:
            if self._finished and not self._entries:
                return None
            self._arrived = trio.Event()
            await self._arrived.wait()
        if isinstance(entry, bytes):
            self._took(len(entry))
            return entry
        if entry.progress_of is not None and self._progress.get(entry.progress_of) is entry:
            del self._progress[entry.progress_of]
        self._took(len(entry.data))
        return entry.data

    def _next(self) -> _Entry | bytes | None:
        """The next message, or piece of one; None if there is none yet."""
        while self._entries:
            entry = self._entries[0]
            if isinstance(entry, _Entry):
                self._entries.popleft()
                return entry
            if entry.pieces:
                piece = entry.pieces.popleft()
                entry.size -= len(piece)
                entry.taken = True
                entry.room.unpark_all()
                return piece
            if not entry.closed:
                return None
            self._entries.popleft()
        return None

    def _took(self, size: int) -> None:
        self._size -= size
        if self._size < self._limit:
            self._waiting.unpark_all()

    def _append(self, entry: _Entry) -> None:
        if self._finished:
            return
        self._entries.append(entry)
        self._size += len(entry.data)
        self._arrived.set()
