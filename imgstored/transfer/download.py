"""A file on its way into the spool: several connections, several mirrors, one front.

    plan ──► a connection's task ──► its thread: RangeConnection.get ──► spool.write ──► front

The plan, and everything else that is not in a thread, belongs to trio's thread and needs no lock.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from imgstored.errors import CancelledError, ClientError, ImgstoreError, InternalError
from imgstored.http.location import Location, check_headers
from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.http.ranges import RangeConnection, Sink, Timeouts
from imgstored.http.retry import Backoff
from imgstored.transfer.front import Front
from imgstored.transfer.job import EnoughError, Job, Outcome
from imgstored.transfer.mirror import ChangedError, Mirror, ValidatorChangedError, check_reply, failure
from imgstored.transfer.pace import Pace
from imgstored.transfer.plan import MIN_RANGE, Ask, RangePlan, Wait
from imgstored.transfer.spool import DifferentError, Spool, blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from imgstored.transfer.range_journal import RangeJournal

#: A request that brought this many new bytes before it failed is no sign of a mirror that does not work.
_PROGRESS = MIN_RANGE


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Bounds on one file's download. Sizes in bytes, times in seconds, rates in bytes a second."""

    connections: int = 8  #: at a time
    connect_seconds: float = 10.0
    silence_seconds: float = 30.0  #: without a byte, until a request counts as failed
    min_rate: int = 1024  #: of one request, averaged over `rate_seconds`; 0: any rate will do
    rate_seconds: float = 60.0
    tries: int = 5  #: failures in a row until a mirror is given up
    backoff: Backoff = field(default_factory=Backoff)
    max_size: int = 1 << 40


def _nothing(_: Any) -> None:
    return None


def _told(error: BaseException) -> ImgstoreError:
    """What the pump is told when `error` ends the download. Nurseries raise cancellation in groups."""
    if isinstance(error, ImgstoreError):
        return error
    if BaseExceptionGroup("", [error]).split(trio.Cancelled)[1] is None:
        return CancelledError("the download was cancelled")
    return InternalError("the download ended unexpectedly", hint="the daemon's log says why")


class Download:
    """Downloads one file. `run` once; `blocks`, `front` and the counters are for any thread, at any time."""

    def __init__(
        self,
        locations: Sequence[Location],
        *,
        size: int | None,
        path: Path,
        journal: RangeJournal,
        limits: DownloadLimits | None = None,
        room: Callable[[int], None] = _nothing,
        note: Callable[[str], None] = _nothing,
        environ: Mapping[str, str] = os.environ,
        chance: Callable[[], float] = random.random,
        user_agent: str = "imgstored",
    ) -> None:
        """`size` is the manifest's, None if it has none; `path` the spool, whose folder exists.

        `room` is called with the bytes still to come before each range, from a worker thread, and may raise
        `NoSpaceError`. `note` gets sentences for people: retries, mirrors given up.
        """
        self.front = Front()
        self.mirrors = [Mirror(location) for location in locations]
        self.resumed = 0  #: bytes that were there when it began
        self._size = size
        self._path = path
        self._limits = limits or DownloadLimits()
        self._room = room
        self._note = note
        self._environ = environ
        self._chance = chance
        self._user_agent = user_agent
        self._spool = Spool(path, journal, self.front)
        self._jobs: dict[int, Job] = {}
        self._changed = trio.Event()
        self._error: ImgstoreError | None = None
        self._anew = False
        self._disputed = False  #: a mirror's file has another size

    # -- how it stands ---------------------------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        """Bytes of the file; None until somebody says."""
        return self._size if self._spool.size is None else self._spool.size

    @property
    def done(self) -> int:
        """Bytes that are in the spool."""
        return self._spool.present

    @property
    def fetched(self) -> int:
        """Bytes that came over the network in this run."""
        return sum(mirror.fetched for mirror in self.mirrors)

    @property
    def connections(self) -> int:
        """Requests that are under way."""
        return len(self._jobs)

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes in order, as they come; for the pump's thread. Raises what ended the download."""
        return blocks(self._path, self.front)

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self, opened: Callable[[int], None] = _nothing) -> None:
        """Brings the whole file into the spool. Raises `DownloadError` or `NoSpaceError`, as does the front.

        `opened` is called with the bytes that were there already, before the first request.
        When it is cancelled, its connections are closed and its threads have ended by the time it returns.
        """
        try:
            await trio.to_thread.run_sync(self._spool.open, self._size, trio.from_thread.check_cancelled)
            self.resumed = self._spool.present
            opened(self.resumed)
            await self._fetch_all()
        except BaseException as error:
            self.front.fail(_told(error))
            raise
        else:
            self.front.finish()
        finally:
            self._spool.close()

    async def _fetch_all(self) -> None:
        self._plan = RangePlan(
            self._spool.ranges,
            done=self._spool.done,
            mirrors=len(self.mirrors),
            connections=self._limits.connections,
            tries=self._limits.tries,
            random=self._chance,
            backoff=self._limits.backoff,
        )
        self._limiter = trio.CapacityLimiter(self._limits.connections)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for _ in range(self._limits.connections):
                nursery.start_soon(self._connection)
        if isinstance(self._error, ChangedError) or (self._size is None and self._disputed):
            self._spool.forget()
        if self._error is not None:
            raise self._error

    def _end(self, error: ImgstoreError) -> None:
        self._error = self._error or error
        self._nursery.cancel_scope.cancel()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _connection(self) -> None:
        """One of the connections: does what the plan says until there is nothing left to do."""
        connection: tuple[int, RangeConnection] | None = None
        try:
            while True:
                step = Wait() if self._anew else self._plan.next(trio.current_time())
                if isinstance(step, Ask):
                    if connection is None or connection[0] != step.mirror:
                        connection = self._other(connection, step.mirror)
                    if not await self._do(step, connection[1]):
                        connection = self._other(connection, step.mirror)
                elif isinstance(step, Wait):
                    with trio.move_on_after(float("inf") if step.seconds is None else step.seconds):
                        await self._changed.wait()
                elif step == "complete":
                    return
                else:
                    self._end(failure(self.mirrors, self._plan.faults()))
                    return
        finally:
            if connection is not None:
                connection[1].close()

    def _other(
        self, connection: tuple[int, RangeConnection] | None, place: int
    ) -> tuple[int, RangeConnection]:
        if connection is not None:
            connection[1].close()
        mirror = self.mirrors[place]
        fresh = RangeConnection(
            mirror.location,
            timeouts=Timeouts(self._limits.connect_seconds, self._limits.silence_seconds),
            environ=self._environ,
            context=mirror.context,
            resolve=self._resolve,
            user_agent=self._user_agent,
        )
        return place, fresh

    # -- one request -----------------------------------------------------------------------------------------

    async def _do(self, ask: Ask, connection: RangeConnection) -> bool:
        """Makes one request, and tells the plan what became of it. False if the connection is used up."""
        job = Job(ask, self.mirrors[ask.mirror], connection)
        self._jobs[ask.number] = job
        outcome: Outcome = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, job)
            outcome = await trio.to_thread.run_sync(self._transfer, job, limiter=self._limiter)
            job.ended = True
            nursery.cancel_scope.cancel()
        del self._jobs[ask.number]
        self._judge(job, outcome)
        if self._anew and not self._jobs:
            self._anew = False
            self._spool.begin_anew()
            self._plan.begin_anew()
        self._wake()
        return outcome is None and not connection.aborted

    async def _watch(self, job: Job) -> None:
        """Ends the job when it is too slow, or when the download is cancelled."""
        limits = self._limits
        pace = Pace(limits.silence_seconds, limits.min_rate, limits.rate_seconds, trio.current_time())
        fault: str | None = None
        try:
            while fault is None:
                await trio.sleep(min(1.0, limits.silence_seconds / 4))
                fault = pace.fault(trio.current_time(), job.fetched)
        except trio.Cancelled:
            if not job.ended:
                job.connection.abort("cancelled")
            raise
        job.connection.abort(fault)

    def _transfer(self, job: Job) -> Outcome:
        """The job's thread: one request, its answer, and its bytes into the spool."""
        spool = self._spool
        # While the size is not known, the server may have no ranges: then all of the file comes at once.
        start, stop = (0, MIN_RANGE) if spool.size is None else spool.missing(job.ask.index)
        if start == stop:
            return None
        validator = None if job.mirror.fickle else spool.validators.get(job.mirror.location.url)
        try:
            self._room(max(0, (self.total or 0) - spool.present))
            check_headers(job.mirror.location.access)
            job.connection.get(start, stop, validator, lambda reply: self._accept(job, reply, validator))
            if job.whole:
                self._check_whole(job)
        except EnoughError:
            job.connection.close()
        except ClientError as error:
            return FetchError(error.message, hint=error.hint, lasting=True)
        except (ImgstoreError, DifferentError, ValidatorChangedError) as error:
            return error
        return None

    def _accept(self, job: Job, reply: RangeReply, validator: str | None) -> Sink:
        """In the job's thread: whether the answer is about our file, and where its bytes go."""
        spool, url = self._spool, job.mirror.location.url
        check_reply(reply, size=self.total, max_size=self._limits.max_size, validator=validator)
        if not trio.from_thread.run_sync(self._answered, job, reply):
            raise FetchError("the server stopped serving ranges")
        if reply.validator is not None and not job.mirror.fickle:
            spool.remember(url, reply.validator)
        job.whole = not reply.partial
        offset = reply.start

        def sink(data: memoryview) -> None:
            nonlocal offset
            bound = self._limits.max_size if spool.size is None else spool.size
            if offset + len(data) > bound:
                raise FetchError(
                    f"file size error: expected {bound} bytes, the server sends more", other_size=True
                )
            job.fresh += spool.write(offset, data)
            offset += len(data)
            job.fetched += len(data)
            job.mirror.count(len(data))
            if job.whole and spool.size is not None and offset < spool.size and spool.complete:
                raise EnoughError

        return sink

    def _answered(self, job: Job, reply: RangeReply) -> bool:
        """The head of an answer came: the plan learns how the mirror serves, and maybe the file's size."""
        wanted = self._plan.answered(job.ask, partial=reply.partial)
        if wanted and self._spool.size is None and reply.total is not None:
            self._spool.begin(reply.total)
            self._plan.grow(self._spool.ranges)
        self._wake()
        return wanted

    def _check_whole(self, job: Job) -> None:
        """After an answer that was the whole file, maybe of a length that nobody announced."""
        if self._spool.size is None:
            self._spool.settle(job.fetched)
        expected, got = self._spool.size, job.fetched
        if got != expected:
            raise FetchError(
                f"{job.mirror.url}: file size error: expected {expected} bytes, downloaded {got} bytes"
            )

    def _judge(self, job: Job, outcome: Outcome) -> None:
        """Tells the plan what became of a job."""
        now = trio.current_time()
        if outcome is None:
            for other in self._plan.finished(job.ask, now, done=self._brought(job)):
                self._jobs[other.number].supersede()
        elif isinstance(outcome, FetchError):
            if job.superseded:
                self._plan.dropped(job.ask)
            else:
                self._failed(job, outcome, now)
        elif isinstance(outcome, ImgstoreError):
            self._plan.dropped(job.ask)
            self._end(outcome)
        else:
            self._another_file(job, outcome, now)

    def _brought(self, job: Job) -> frozenset[int]:
        """Ranges that are there because of the job; others may be as good as there, and end by themselves."""
        if job.whole:
            return self._spool.done
        start, stop = self._spool.missing(job.ask.index)
        return frozenset([job.ask.index] if start == stop else [])

    def _failed(self, job: Job, fault: FetchError, now: float) -> None:
        mirror = job.mirror
        mirror.failures += 1
        mirror.fault, mirror.facts = fault.message, fault.data
        self._disputed |= fault.other_size
        delay = self._plan.failed(
            job.ask,
            now,
            fault.message,
            # A file that is too long has all ranges, and still is another one.
            done=() if fault.other_size else self._brought(job),
            lasting=fault.lasting,
            progressed=job.fresh >= _PROGRESS,
            retry_after=fault.retry_after,
        )
        if delay is None:
            self._note(f"{fault.message}; not asked again")
        elif delay > 0:
            self._note(f"{fault.message}; trying again in {delay:.1f} s")

    def _another_file(self, job: Job, what: DifferentError | ValidatorChangedError, now: float) -> None:
        """The server has another file than before: all that is there is in doubt."""
        mirror = job.mirror
        by_name = isinstance(what, ValidatorChangedError)
        if self._anew or (by_name and mirror.fickle):
            # Other requests found out before; it changed only once.
            self._plan.dropped(job.ask)
            return
        mirror.changes += 1
        changed = f"{mirror.url}: the file changed while it was downloaded"
        if isinstance(what, DifferentError) and what.offset < self.front.position:
            self._plan.dropped(job.ask)
            self._end(ChangedError(changed, hint="try again: it starts anew"))
            return
        if by_name and mirror.fickle:
            # From now on its names for the file count for nothing; the checksum decides.
            self._plan.dropped(job.ask)
            return
        self._failed(job, FetchError(changed, lasting=mirror.changes >= self._limits.tries), now)
        self._note(f"{mirror.url}: what was downloaded is fetched again, and compared")
        self._anew = True
        for other in self._jobs.values():
            other.supersede()

    def _resolve(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        """In a job's thread: asks the resolver so that a cancelled download need not wait for it."""
        return trio.from_thread.run(self._look_up, host, port)

    async def _look_up(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        with trio.move_on_after(self._limits.connect_seconds):
            return await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        raise TimeoutError("no answer from the name server")
