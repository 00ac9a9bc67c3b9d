"""One creation, export or publication: its notifications, and its early end."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import trio
from imgproto.events import Progress

from imgstored.events.request import PROGRESS_INTERVAL, ClientRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from imgproto.events import EventDocument

    from imgstored.create.compress import Buffer

T = TypeVar("T")

#: Images that are made at the same time; each has a thread, and its compression's.
MAX_JOBS: Final = 4


class Job(ClientRequest, Generic[T]):
    """A request whose events end with a result."""

    result: T  #: is there once the events have ended


class Reporter:
    """A job, as the thread that does it sees it."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._token = trio.lowlevel.current_trio_token()
        self._reported_at = 0.0

    def tell(self, event: EventDocument) -> None:
        """Tells the client. Never waits, and never raises: it is called while things are tidied up, too."""
        self._token.run_sync_soon(self._job.emit, event)

    def check(self) -> None:
        """Ends the thread's work if nobody wants it any more."""
        trio.from_thread.check_cancelled()

    def watched(self, blocks: Iterable[Buffer], total: int | None) -> Iterator[Buffer]:
        """The blocks; tells how many bytes of `total` have passed. Raises when nobody wants them any more."""
        done = 0
        for block in blocks:
            self.check()
            yield block
            done += len(block)
            now = time.monotonic()
            if now - self._reported_at >= PROGRESS_INTERVAL:
                self._reported_at = now
                self.tell(Progress(event="progress", done=done, total=total, rate=0.0, images=[]))


async def in_thread(job: Job[Any], work: Callable[[Reporter], T], limiter: trio.CapacityLimiter) -> T:
    """Runs `work` in a thread, which ends soon after the job is cancelled; returns its result."""
    reporter = Reporter(job)
    return await trio.to_thread.run_sync(work, reporter, limiter=limiter)


@asynccontextmanager
async def running(client: str, work: Callable[[Job[T]], Awaitable[T]]) -> AsyncIterator[Job[T]]:
    """Runs `work` alongside the block that reads its events; leaving the block ends it."""
    job = Job[T](client)
    failure: Exception | None = None

    async def do() -> None:
        job.result = await work(job)

    async def serve() -> None:
        with job.scope:
            await job.run(do)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            yield job
        except Exception as error:  # noqa: BLE001  (raised below: the nursery would put it into a group)
            failure = error
        job.scope.cancel()
    if failure is not None:
        raise failure
