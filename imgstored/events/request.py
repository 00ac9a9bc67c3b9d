"""One client's request while it runs: the queue of notifications between the store and the client."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, InternalError
from imgstored.events.stream import ImportEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproto.events import EventDocument, Progress

    from imgstored.events.stream import StoreEvent

log = structlog.get_logger(__name__)

#: Seconds between two progress events.
PROGRESS_INTERVAL = 0.2


class ClientRequest:
    """A running request: an asynchronous iterator of its events, for one reader, which gets its error, too.

    Newer progress replaces progress that nobody has read yet. All other events are kept: they are few.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.scope = trio.CancelScope()
        self._events: deque[EventDocument] = deque()
        self._progress: Progress | None = None
        self._ended = False
        self._error: ImgstoreError | None = None
        self._changed = trio.Event()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does the request's work, and reports its end to the reader."""
        try:
            await work()
        except ImgstoreError as error:
            self.end(error)
        except Exception as error:
            log.exception("a request failed", client=self.client)
            self.end(InternalError.unexpected("the request", error))
        else:
            self.end()

    def __aiter__(self) -> ClientRequest:
        return self

    async def __anext__(self) -> EventDocument:
        while True:
            if self._events:
                return self._events.popleft()
            if self._progress is not None:
                progress, self._progress = self._progress, None
                return progress
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()

    def emit(self, event: EventDocument) -> None:
        """Queues an event for the reader."""
        if event["event"] == "progress":
            self._progress = event
        else:
            self._events.append(event)
        self._changed.set()

    def hear(self, event: StoreEvent) -> None:
        """Listens to an `EventStream`: queues what happens to imports."""
        if isinstance(event, ImportEvent):
            self.emit(event.event)

    def end(self, error: ImgstoreError | None = None) -> None:
        """Ends the events. If it is called several times, the first call counts."""
        if not self._ended:
            self._ended = True
            self._error = error
        self._changed.set()
