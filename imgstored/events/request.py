"""One client's wish, and what it is told until it is fulfilled."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, InternalError
from imgstored.events.notifications import Event, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from imgstored.imports.layer import Layer

log = structlog.get_logger(__name__)

#: Seconds between two progress events.
PROGRESS_INTERVAL = 0.2
#: Seconds over which the rate is taken.
RATE_WINDOW = 3.0


class Request:
    """An asynchronous iterator of events, with one reader; raises the error that ended the wish.

    Progress is replaced by newer progress while nobody reads, everything else is kept: there is little of it.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.scope = trio.CancelScope()
        self._events: deque[Event] = deque()
        self._progress: Progress | None = None
        self._ended = False
        self._error: ImgstoreError | None = None
        self._changed = trio.Event()

    async def run(self, fulfil: Callable[[Request], Awaitable[None]]) -> None:
        """Fulfils the wish, and tells the reader how it ended."""
        try:
            await fulfil(self)
        except ImgstoreError as error:
            self.end(error)
        except Exception:
            log.exception("a request failed", client=self.client)
            self.end(InternalError("imgstored made a mistake", hint="its log has the details"))
        else:
            self.end()

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> Event:
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

    def emit(self, event: Event) -> None:
        """Tells the reader."""
        if isinstance(event, Progress):
            self._progress = event
        else:
            self._events.append(event)
        self._changed.set()

    def end(self, error: ImgstoreError | None = None) -> None:
        """The last thing that the reader is told; what it was told first stands."""
        if not self._ended:
            self._ended = True
            self._error = error
        self._changed.set()


class ProgressMeter:
    """Sums up how far some layers are. Give it the time; it has no clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def read(self, layers: Iterable[Layer], now: float) -> Progress:
        """How far the layers are at `now` (seconds of any steady clock)."""
        images = tuple(layer.progress() for layer in layers)
        done = sum(image.done for image in images)
        total: int | None = 0
        for image in images:
            total = None if total is None or image.total is None else total + image.total
        self._samples.append((now, done))
        while now - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = max(0.0, (done - before) / (now - since)) if now > since else 0.0
        return Progress(done=done, total=total, rate=rate, images=images)
