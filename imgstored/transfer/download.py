"""A file on its way into the spool: several connections, several mirrors, one watermark.

    plan ──► a connection's task ──► its thread: RangeConnection.get ──► spool.write ──► watermark

Only trio's thread changes the plan, which needs no lock; the other threads read what mirrors have proven.
"""

from __future__ import annotations

import os
import random
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct, field

from imgstored import lanes
from imgstored.errors import CancelledError, ClientError, ImgstoreError, InternalError
from imgstored.http.dial import Answered
from imgstored.http.failures import Backoff
from imgstored.http.location import Location, check_headers
from imgstored.http.range_reply import OTHER_FILE, FetchError, RangeReply
from imgstored.http.ranges import RangeConnection, Sink, Timeouts
from imgstored.pools.base import BOUNDLESS
from imgstored.transfer.coding import Uncoded, may_be_added
from imgstored.transfer.mirror import (
    ChangedError,
    EnoughError,
    Mirror,
    Outcome,
    Pace,
    RangeRequest,
    ValidatorChangedError,
    check_reply,
    failure,
)
from imgstored.transfer.parts import PartsConnection
from imgstored.transfer.plan import MIN_RANGE, MIN_RANGE_OF_BLOBS, Ask, RangePlan, Restart, Sign, Wait
from imgstored.transfer.spool import DifferentError, Spool, blocks
from imgstored.transfer.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from imgstored.http.location import Part
    from imgstored.pools.base import Room
    from imgstored.transfer.mirror import Connection
    from imgstored.transfer.payloads import PayloadSpool
    from imgstored.transfer.range_journal import RangeJournal

#: A request that brought this many new bytes before it failed is no sign of a mirror that does not work. One
#: for the whole file begins at its first byte again, and must be worth that.
_PROGRESS = 64 << 10
_PROGRESS_OF_WHOLE = MIN_RANGE


#: The hint where a server has sent a part of the file, and then refuses the rest for good.
_REFUSED_LATER = (
    "it had sent a part of the file, which is kept: it may limit connections or requests;"
    " try again later, or with fewer `connections`"
)


class DownloadLimits(Struct, frozen=True, kw_only=True):
    """Bounds on one file's download. Sizes in bytes, times in seconds, rates in bytes a second.

    What has no default is configured (`LimitsTable`).
    """

    connections: int  #: at a time
    connect_seconds: float
    silence_seconds: float  #: without a byte, until a request counts as failed
    min_rate: int  #: of one request, averaged over `rate_seconds`; 0: any rate will do
    tries: int  #: failures in a row until a mirror is given up
    whole_first: bool = False  #: a download of which nothing is there asks without a Range header
    rate_seconds: float = 60.0
    backoff: Backoff = field(default_factory=Backoff)
    max_size: int = 1 << 40


class _Body(Struct):
    """One request, and the way its body is taken. For the request's thread."""

    request: RangeRequest
    start: int
    stop: int
    plain: bool  #: without a Range header
    validator: str | None
    uncoded: Uncoded | None = None


def _nothing(_: Any) -> None:
    return None


def _for_reader(error: BaseException) -> ImgstoreError:
    """The reader's error when `error` ends the download. Nurseries raise cancellation in groups."""
    group = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
    if isinstance(error, ImgstoreError):
        return error
    if group.split(trio.Cancelled)[1] is None:
        return CancelledError("the download was cancelled")
    internal = InternalError("the download ended unexpectedly", hint="the daemon's log says why")
    internal.__cause__ = error
    return internal


class Download:
    """Downloads one file. `run` once; `blocks`, `watermark` and the counters are for any thread."""

    def __init__(
        self,
        locations: Sequence[Location],
        *,
        size: int | None,
        path: Path,
        journal: RangeJournal,
        limits: DownloadLimits,
        room: Room = BOUNDLESS,
        note: Callable[[str], None] = _nothing,
        environ: Mapping[str, str] = os.environ,
        chance: Callable[[], float] = random.random,
        user_agent: str = "imgstored",
        spool: Callable[[Watermark], PayloadSpool] | None = None,
    ) -> None:
        """`size` is the manifest's, None if it has none; `path` the spool, whose folder exists.

        `spool` makes another one for a part of the file, from which `blocks` must not be read.

        `room` is asked, from worker threads, before the first byte for all that is to come, as far as
        somebody says how much that is, and for each piece. `note` gets sentences for people: retries, mirrors
        given up.
        """
        self.watermark = Watermark()
        self.mirrors = [Mirror(location) for location in locations]
        self.resumed = 0  #: bytes that were there when it began
        self._size = size
        self._path = path
        self._limits = limits
        self._note = note
        self._environ = environ
        self._chance = chance
        self._user_agent = user_agent
        self._addresses = Answered()
        in_registry = any(location.parts for location in locations)
        least = MIN_RANGE_OF_BLOBS if in_registry else MIN_RANGE
        self._spool: Spool | PayloadSpool = (
            Spool(path, journal, self.watermark, room, min_range=least, connections=limits.connections)
            if spool is None
            else spool(self.watermark)
        )
        self._requests: dict[int, RangeRequest] = {}
        self._changed = trio.Event()
        self._error: ImgstoreError | None = None
        self.failure: BaseException | None = None  #: what ended `run`, and so the reader

    # -- how it stands ---------------------------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        """Bytes of the file; None while nobody has stated its size."""
        return self._size if self._spool.size is None else self._spool.size

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the file, as the first mirror has it."""
        return self.mirrors[0].location.parts if self.mirrors else ()

    @property
    def layers(self) -> tuple[tuple[int, str], ...]:
        """The size and the SHA-256 of each part, in lower-case hexadecimal; none where one is not known."""
        known = tuple((part.size, part.sha256) for part in self.parts if part.sha256 is not None)
        return known if len(known) == len(self.parts) else ()

    @property
    def done(self) -> int:
        """Bytes that are in the spool."""
        return self._spool.present

    @property
    def kept(self) -> int:
        """Bytes that a later download need not fetch, if this one ends now."""
        return self._spool.kept

    @property
    def connections(self) -> int:
        """Requests that are under way."""
        return len(self._requests)

    @property
    def ended(self) -> bool:
        """True if nothing comes any more."""
        return self.watermark.ended

    @property
    def generation(self) -> int:
        """Grows whenever bytes that were there may have been of another file."""
        return self._spool.generation

    def wait_from(self, offset: int, enough: int, seconds: float) -> int:
        """The end of the bytes that are there from `offset` on; `offset` itself if there are none.

        For any thread. Waits up to `seconds` until `enough` are there, or what is left of their range; not
        once the download has ended.
        """
        return self._spool.wait_from(offset, enough, seconds)

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes in order, as they come; for the pump's thread. Raises what ended the download."""
        return blocks(self._path, self.watermark)

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self, opened: Callable[[int], None] = _nothing) -> None:
        """Brings the whole file into the spool. Raises `DownloadError` or `NoSpaceError`; so does the reader.

        `opened` is called with the bytes that were there already, before the first request.
        When it is cancelled, its connections are closed and its threads have ended by the time it returns.
        """
        try:
            await lanes.in_thread(
                self._spool.open, self._size, trio.from_thread.check_cancelled, kind="spools"
            )
            self.resumed = self._spool.present
            opened(self.resumed)
            await self._fetch_all()
        except BaseException as error:
            self.failure = error
            self.watermark.fail(_for_reader(error))
            raise
        else:
            self.watermark.finish()
        finally:
            with trio.CancelScope(shield=True):
                await lanes.in_thread(self._spool.close, kind="spools")

    async def _fetch_all(self) -> None:
        self._plan = RangePlan(
            self._spool.ranges,
            done=self._spool.done,
            mirrors=len(self.mirrors),
            connections=self._limits.connections,
            tries=self._limits.tries,
            random=self._chance,
            backoff=self._limits.backoff,
            size_stated=self._size is not None,
        )
        self._limiter = trio.CapacityLimiter(self._limits.connections)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for _ in range(self._limits.connections):
                nursery.start_soon(self._connection)
        if not self._plan.reusable:
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
        connection: tuple[int, Connection] | None = None
        try:
            while True:
                step = self._plan.next(trio.current_time())
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
                    self._end(failure(self.mirrors, self._plan.faults(), kept=self._spool.present > 0))
                    return
        finally:
            if connection is not None:
                connection[1].close()

    def _other(self, connection: tuple[int, Connection] | None, place: int) -> tuple[int, Connection]:
        if connection is not None:
            connection[1].close()
        mirror = self.mirrors[place]
        in_parts = len(mirror.location.parts) > 1
        fresh: Connection = (partial(PartsConnection, reused=mirror.reuse) if in_parts else RangeConnection)(
            mirror.location,
            timeouts=Timeouts(self._limits.connect_seconds, self._limits.silence_seconds),
            environ=self._environ,
            context=mirror.context,
            resolve=self._resolve,
            answered=self._addresses,
            user_agent=self._user_agent,
        )
        return place, fresh

    # -- one request -----------------------------------------------------------------------------------------

    async def _do(self, ask: Ask, connection: Connection) -> bool:
        """Makes one request, and tells the plan what became of it. False if the connection is used up."""
        request = RangeRequest(ask, self.mirrors[ask.mirror], connection)
        self._requests[ask.number] = request
        outcome: Outcome = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, request)
            outcome = await trio.to_thread.run_sync(self._transfer, request, limiter=self._limiter)
            request.ended = True
            nursery.cancel_scope.cancel()
        del self._requests[ask.number]
        self._judge(request, outcome)
        if self._plan.restart_due:
            self._spool.begin_anew()
            self._plan.begin_anew()
        self._wake()
        return outcome is None and not connection.aborted

    async def _watch(self, request: RangeRequest) -> None:
        """Ends the request when it is too slow, or when the download is cancelled."""
        limits = self._limits
        pace = Pace(limits.silence_seconds, limits.min_rate, limits.rate_seconds, trio.current_time())
        fault: str | None = None
        try:
            while fault is None:
                await trio.sleep(min(1.0, limits.silence_seconds / 4))
                fault = pace.fault(trio.current_time(), request.fetched)
        except trio.Cancelled:
            if not request.ended:
                request.connection.abort("cancelled")
            raise
        request.connection.abort(fault)

    def _transfer(self, request: RangeRequest) -> Outcome:
        """The request's thread: one request, its answer, and its bytes into the spool."""
        spool = self._spool
        # While the size is not known, the server may have no ranges: then all of the file comes at once.
        start, stop = (0, MIN_RANGE) if spool.size is None else spool.missing(request.ask.index)
        if start == stop:
            return None
        # A plain request costs one connection, and no other one runs: nothing that is there is lost.
        plain = request.ask.plain or (self._limits.whole_first and not spool.present)
        url = request.mirror.location.url
        validator = spool.validators.get(url) if self._plan.trusts_validators(request.ask.mirror) else None
        try:
            spool.reserve()
            check_headers(request.mirror.location.access)
            body = _Body(request, start, stop, plain, validator)
            accept = partial(self._accept, body)
            first, end = (0, None) if plain else (start, stop)
            reply = request.connection.get(first, end, validator, accept, plain=plain)
            if not reply.partial:
                if body.uncoded is not None:
                    body.uncoded.finish()
                self._check_whole(request)
        except EnoughError:
            request.connection.close()
        except ClientError as error:
            refused = FetchError(error.message, hint=error.hint, lasting=True)
            refused.__cause__ = error
            return refused
        except FetchError as error:
            # Where no Range header was sent, it is not the reason.
            return error if request.ask.plain or not plain else error.without_ranges()
        except (ImgstoreError, DifferentError, ValidatorChangedError) as error:
            return error
        return None

    def _accept(self, body: _Body, reply: RangeReply) -> Sink:
        """In the request's thread: whether the answer is about our file, and where its bytes go."""
        request = body.request
        spool, url = self._spool, request.mirror.location.url
        size = self.total
        check_reply(
            reply,
            size=size,
            max_size=self._limits.max_size,
            validator=body.validator,
            proven=self._plan.mirrors[request.ask.mirror].proven,
            plain=body.plain,
        )
        known = spool.size is not None
        if not trio.from_thread.run_sync(self._answered, request, reply):
            raise FetchError("the server stopped serving ranges")
        if not known:
            spool.reserve()
        if reply.validator is not None and self._plan.trusts_validators(request.ask.mirror):
            spool.remember(url, reply.validator)
        request.position = reply.start
        keep = partial(self._keep, body, reply)
        if may_be_added(reply, size):
            body.uncoded = Uncoded(keep, certain=reply.total is not None)

        def sink(data: memoryview) -> None:
            request.fetched += len(data)
            request.mirror.count(len(data))
            (keep if body.uncoded is None else body.uncoded.feed)(data)

        return sink

    def _keep(self, body: _Body, reply: RangeReply, data: memoryview) -> None:
        """In the request's thread: puts the file's bytes into the spool; of a part, what was asked for."""
        request, spool, offset = body.request, self._spool, body.request.position
        bound = self._limits.max_size if spool.size is None else spool.size
        if offset + len(data) > bound:
            raise FetchError(
                f"file size error: expected {bound} bytes, the server sends more",
                hint=OTHER_FILE,
                other_size=True,
            )
        request.position += len(data)
        if reply.partial:
            fitting = data[max(0, body.start - offset) : max(0, body.stop - offset)]
            if fitting:
                request.fresh += spool.write(max(offset, body.start), fitting)
            if request.position >= body.stop and reply.stop != body.stop:
                raise EnoughError
            return
        request.fresh += spool.write(offset, data)
        if spool.size is not None and request.position < spool.size and spool.complete:
            raise EnoughError

    def _answered(self, request: RangeRequest, reply: RangeReply) -> bool:
        """The head of an answer came: the plan learns how the mirror serves, and maybe the file's size."""
        wanted = self._plan.answered(request.ask, partial=reply.partial)
        if wanted and self._spool.size is None and reply.total is not None:
            self._spool.begin(reply.total)
            self._plan.grow(self._spool.ranges)
        self._wake()
        return wanted

    def _check_whole(self, request: RangeRequest) -> None:
        """After an answer that was the whole file, maybe of a length that nobody announced."""
        if self._spool.size is None:
            self._spool.settle(request.position)
            self._spool.reserve()  # which is nothing more
        expected, got = self._spool.size, request.position
        if got != expected:
            raise FetchError(
                f"{request.mirror.url}: file size error: expected {expected} bytes, downloaded {got} bytes"
            )

    def _judge(self, request: RangeRequest, outcome: Outcome) -> None:
        """Tells the plan what became of a request."""
        now = trio.current_time()
        if outcome is None and not request.fresh and not self._brought(request):
            # To ask again would be the same again, without end.
            outcome = FetchError("an answer had nothing of what is missing of the file")
        if outcome is None:
            for other in self._plan.finished(request.ask, now, done=self._brought(request)):
                self._abort(other)
        elif isinstance(outcome, FetchError):
            self._failed(request, outcome, now)
        elif isinstance(outcome, ImgstoreError):
            self._plan.dropped(request.ask)
            self._end(outcome)
        else:
            self._differs(request, outcome, now)

    def _abort(self, needless: Ask) -> None:
        self._requests[needless.number].connection.abort("not needed any more")

    def _brought(self, request: RangeRequest) -> frozenset[int]:
        """Ranges that are there because of the request. Others may be nearly there, and end by themselves."""
        if self._plan.brings_whole(request.ask):
            return self._spool.done
        start, stop = self._spool.missing(request.ask.index)
        return frozenset([request.ask.index] if start == stop else [])

    def _failed(self, request: RangeRequest, fault: FetchError, now: float) -> None:
        request.mirror.failed(fault)
        refused = self._plan.mirrors[request.ask.mirror].proven and fault.lasting and not fault.other_size
        request.mirror.hint = _REFUSED_LATER if refused else fault.hint
        rests = self._plan.failed(
            request.ask,
            now,
            fault.message,
            done=self._brought(request),
            lasting=fault.lasting,
            other_size=fault.other_size,
            ranges=fault.ranges,
            progressed=self._progressed(request),
            retry_after=fault.retry_after,
        )
        self._note_rest(fault.message, rests)

    def _progressed(self, request: RangeRequest) -> bool:
        whole = self._plan.brings_whole(request.ask)
        return request.fresh >= (_PROGRESS_OF_WHOLE if whole else _PROGRESS)

    def _note_rest(self, fault: str, rests: float | None) -> None:
        if rests is None:
            self._note(f"{fault}; not tried again")
        elif rests > 0:
            self._note(f"{fault}; trying again in {rests:.1f} s")

    def _differs(
        self, request: RangeRequest, what: DifferentError | ValidatorChangedError, now: float
    ) -> None:
        """The mirror has another file than before; the plan says what follows."""
        sign: Sign = "validator"
        if isinstance(what, DifferentError):
            sign = "read bytes" if what.offset < self.watermark.position else "unread bytes"
        changed = f"{request.mirror.url}: the file changed while it was downloaded"
        reaction = self._plan.differs(request.ask, now, changed, sign, progressed=self._progressed(request))
        if reaction == "spoiled":
            self._end(ChangedError(changed, hint="try again: the download starts from the beginning"))
        elif isinstance(reaction, Restart):
            self._note_rest(changed, reaction.rests)
            self._note(f"{request.mirror.url}: downloads the file again, to compare it")
            for other in reaction.needless:
                self._abort(other)

    def _resolve(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        """In a request's thread: asks the resolver so that a cancelled download need not wait for it."""
        return trio.from_thread.run(self._look_up, host, port)

    async def _look_up(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        with trio.move_on_after(self._limits.connect_seconds):
            return await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        raise TimeoutError("no answer from the name server")
