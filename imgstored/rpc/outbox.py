"""The queue of messages to one client. Never holds more than its limit and one message of each who waits."""

from __future__ import annotations

from collections import deque

import trio
from msgspec import Struct

#: Bytes of one message that comes in pieces, which wait before the next piece has to.
_STREAM = 256 << 10


class _Entry(Struct, eq=False):
    data: bytes
    progress_of: int | None = None


class Stream:
    """A message that is put in piece by piece. Other messages wait behind it; it waits for none of them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.pieces: deque[bytes] = deque()
        self.size = 0  #: bytes that wait
        self.taken = False  #: some of it
        self.closed = False
        self.room = trio.lowlevel.ParkingLot()

    async def put(self, piece: bytes) -> None:
        """Appends a piece, once there is room for it. It is the last that is awaited before that."""
        await trio.lowlevel.checkpoint()
        while self.size >= _STREAM:
            await self.room.park()
        self._outbox.add_piece(self, piece)

    def close(self) -> None:
        """Says that the message is whole."""
        self.closed = True
        self._outbox.wake()


class Outbox:
    """Messages in the order in which they came in; progress is replaced by newer progress while it waits.

    One task takes, any number put in. All are in trio's thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[_Entry | Stream] = deque()
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

    def open(self, request: int) -> Stream:
        """A message that follows in pieces; to be closed, or broken off."""
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
        """Lets who takes look again."""
        self._arrived.set()

    def finish(self) -> None:
        """Says that nothing more will come in; what does is dropped."""
        self._finished = True
        self._arrived.set()

    async def take(self) -> bytes | None:
        """The next message; None when there are no more and there will be none."""
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
        """The next message, or piece of one; None where it is still to come."""
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
