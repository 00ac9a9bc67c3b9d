"""The manager of imports: from a request to the imports that fulfil it, and again after a restart.

A request plans the ancestry of its image, joins the imports under way and starts the others, and then follows
them. Imports are shared: a hundred requests for one image are one import. Only trio's thread touches the
manager's state.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from imgproto.events import (
    AlreadyInstalled,
    AncestorInstalled,
    GatheringAncestry,
    Importing,
    Installing,
    Note,
    Planned,
)

from imgstored import lanes
from imgstored.errors import (
    ImageNotInstalledError,
    ImgstoreError,
    InternalError,
    OriginNotInstalledError,
    StoppingError,
    UsageError,
)
from imgstored.events.request import ClientRequest
from imgstored.events.stream import Action, CacheHit, Refused, Requester
from imgstored.http.location import public
from imgstored.import_id import fresh
from imgstored.imports.import_ import Import
from imgstored.imports.local_file import FromFile
from imgstored.imports.plan import Plan
from imgstored.imports.spec import ImportSpec
from imgstored.imports.state import KEPT, End
from imgstored.imports.table import ImportTable
from imgstored.manifest import check_uuid, in_lower_case, load, timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from imgproto.documents import JobDocument

    from imgstored.catalog.catalog import InstalledImage, Key
    from imgstored.catalog.deletions import Deletions
    from imgstored.catalog.refresh import Refresh
    from imgstored.events.stream import EventStream
    from imgstored.imports.journal import UnfinishedImport
    from imgstored.imports.plan import State
    from imgstored.imports.resources import Resources
    from imgstored.manifest import Manifest
    from imgstored.manifest.platform import Platform
    from imgstored.sources.search import Found
    from imgstored.sources.source_set import SourceSet

log = structlog.get_logger(__name__)

#: Images that one request may name.
MAX_IMAGES: Final = 1000
#: Imports that may be under way when a detached import begins, including its own images.
MAX_DETACHED: Final = 1000

#: Seconds until an unfinished import is tried again while no source answers: at first, and at most.
_FIRST_PAUSE: Final = 5.0
_LAST_PAUSE: Final = 600.0

#: Seconds between two looks whether such an import has begun.
_WAITING_PAUSE: Final = 0.2

#: Seconds between two tries to open a journal for which there was no room.
_JOURNAL_PAUSE: Final = 3.0

#: Seconds between two looks for partial downloads that are too old.
_EXPIRY_INTERVAL: Final = 3600.0

#: Requests the imports that an earlier daemon did not finish.
_AFTER_RESTART: Final = Requester("imgstored (after a restart)")


class _Waiting:
    """An unfinished import of an earlier daemon; `error` is the reason of its last failure here."""

    def __init__(self, unfinished: UnfinishedImport) -> None:
        self.spec = unfinished.spec
        self.name, self.version = unfinished.name, unfinished.version
        self.since = time.time()
        self.scope = trio.CancelScope()
        self._begun = trio.Event()  # an import of the image, for whomever
        self.ended = trio.Event()
        self.error = ""
        self.failure: ImgstoreError | None = None  #: why something that it left could not be dropped

    async def rested(self, seconds: float) -> bool:
        """Waits so long, or until an import of the image begins; whether one did since the last failure."""
        with trio.move_on_after(seconds):
            await self._begun.wait()
        return self._begun.is_set()

    def other_begins(self) -> None:
        """Notes that an import of the image begins."""
        self._begun.set()

    def leaves(self, failure: ImgstoreError) -> None:
        """Notes that something cannot be dropped."""
        self.failure = failure

    @property
    def cancelled(self) -> bool:
        """True once nobody wants it any more."""
        return self.scope.cancel_called

    def failed(self, error: ImgstoreError) -> None:
        """Notes a failure; the manager tries the import again."""
        self.error = error.message
        self._begun = trio.Event()


class ImportManager:
    """All imports of the daemon. `run` must be running for one to be requested."""

    def __init__(
        self,
        resources: Resources,
        sources: SourceSet,
        refresh: Refresh,
        deletions: Deletions,
        events: EventStream,
        platform: Platform | None = None,
    ) -> None:
        self._resources = resources
        self._catalog = resources.catalog
        self._sources = sources
        self._refresh = refresh
        self._deletions = deletions
        self._events = events
        self._platform = platform
        self._table = ImportTable(events)
        self._waiting: dict[Key, _Waiting] = {}  # unfinished imports of an earlier daemon, until they end
        self._swept = False  # whether the other leftovers of an earlier daemon are gone
        self._fault: ImgstoreError | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until it is cancelled; begins with the imports that the last daemon left unfinished.

        These and new imports wait while the journal cannot be opened. Meanwhile images can be listed, and
        deleted, and installed from files.
        """
        unfinished = await self._left_unfinished()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._table.run)
            task_status.started()
            while unfinished is None:
                await trio.sleep(_JOURNAL_PAUSE)
                unfinished = await self._left_unfinished()
            for each in unfinished:
                self._waiting[each.spec.key] = _Waiting(each)
                nursery.start_soon(self._go_on, each.spec)
            nursery.start_soon(self._expire)

    async def _left_unfinished(self) -> list[UnfinishedImport] | None:
        """Sweeps up leftovers; returns the imports to resume, or None while the journal cannot be read."""
        journal, keep = self._resources.journal, self._resources.limits.keep_partial_seconds
        try:
            if not await lanes.in_thread(journal.open):
                return None
            unfinished = await lanes.in_thread(self._resources.leftovers.sweep, keep, kind="spools")
        except ImgstoreError as error:
            if self._fault is None or self._fault.message != error.message:
                log.error("imports wait", error=error.message, hint=error.hint)
            self._fault = error
            return None
        self._swept, self._fault = True, None
        return unfinished

    @property
    def fault(self) -> ImgstoreError | None:
        """The reason why imports wait, or None."""
        return self._fault or self._resources.journal.fault

    def _check_journal(self) -> None:
        """Raises `PoolError` while no import can be written down."""
        if self._fault is not None:
            raise self._fault
        if not self._swept:
            raise self._resources.journal.not_open()

    async def _expire(self) -> None:
        """Drops partial downloads that are too old, again and again: a daemon may run for years."""
        resources = self._resources
        while True:
            await trio.sleep(_EXPIRY_INTERVAL)
            try:
                async with resources.beginning:
                    keep = resources.limits.keep_partial_seconds
                    await lanes.in_thread(resources.leftovers.expire, keep, kind="spools")
            except (ImgstoreError, OSError) as error:
                log.error("old partial downloads cannot be dropped", error=str(error))

    def stop(self) -> None:
        """Starts no more imports. Imports that end from now on keep what they have, and go on next time."""
        self._table.stop()

    def jobs(self) -> list[JobDocument]:
        """All imports under way, and those that wait to be tried again, as the protocol's *job*."""
        return [*self._table.jobs(), *map(_job_of, self._still_waiting())]

    @property
    def busy(self) -> bool:
        """True while an import is under way, and does not merely wait for a source."""
        return len(self._table) > 0

    def _still_waiting(self, uuid: str | None = None) -> list[_Waiting]:
        """The imports, of one image or of all, that wait to be tried again."""
        return [
            each
            for key, each in self._waiting.items()
            if uuid in (None, key[1]) and self._table.get(key) is None and self._catalog.find(*key) is None
        ]

    def fetched(self) -> dict[Action, Mapping[str, int]]:
        """The bytes that each import has fetched so far, by source."""
        return self._table.fetched()

    def cloned_from(self, pool: str, uuid: str) -> list[str]:
        """The names of the partials that are being cloned from an image, or about to be."""
        return self._table.cloned_from(pool, uuid)

    # -- what clients request --------------------------------------------------------------------------------

    @asynccontextmanager
    async def request(
        self,
        uuids: Sequence[str],
        *,
        requester: Requester,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
        zstream: bool = False,
    ) -> AsyncIterator[ClientRequest]:
        """Imports images for a client, and gives the events. Leaving the block ends the client's interest.

        With `zstream` the sources' files are taken as they are now, whatever the manifests say of them.
        Raises `UsageError`, `InvalidUUIDError`, `PoolNotFoundError`.
        """
        specs = self._specs(uuids, pool, sources, channel, zstream=zstream)
        async with self._import(specs, requester) as request:
            yield request

    @asynccontextmanager
    async def detached(
        self,
        uuids: Sequence[str],
        *,
        requester: Requester,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
        zstream: bool = False,
    ) -> AsyncIterator[ClientRequest]:
        """As `request`, but the events end as soon as the imports are written down, and these go on.

        Neither a client that leaves nor a restart ends them; only `cancel` does. Raises `UsageError` also
        where too many imports are under way.
        """
        specs = self._specs(uuids, pool, sources, channel, zstream=zstream)
        under_way = len(self._table) + len(self._still_waiting())
        if under_way + len(specs) > MAX_DETACHED:
            raise UsageError(
                f"{under_way} imports are under way",
                hint=f"at most {MAX_DETACHED} may go on by themselves: wait for some, or cancel them",
            )

        async def work(request: ClientRequest) -> None:
            await self._refresh.pool(specs[0].pool)
            for spec in specs:
                wanted = await self._want(request, spec, requester)
                if wanted is None:
                    continue
                # Nobody has this token, and so nobody leaves with it.
                wanted.join(object(), f"{requester.client}, detached")
                await wanted.written.wait()
                if wanted.error is not None:
                    raise wanted.error

        async with self._running(requester.client, work) as request:
            yield request

    def _specs(
        self,
        uuids: Sequence[str],
        pool: str | None,
        sources: Sequence[str] | None,
        channel: str | None,
        *,
        zstream: bool,
    ) -> list[ImportSpec]:
        """The specs of the imports. Raises `UsageError`, `InvalidUUIDError`, `PoolNotFoundError`."""
        if not 0 < len(uuids) <= MAX_IMAGES:
            raise UsageError(
                f"{len(uuids)} images are named", hint=f"name at least one, and at most {MAX_IMAGES}"
            )
        for uuid in uuids:
            check_uuid(uuid)
        name = self._catalog.pool(pool).name
        replaced = None if sources is None else tuple(sources)
        place = self._sources.containers.place
        return [
            ImportSpec(uuid, name, replaced or place(uuid), channel, zstream) for uuid in dict.fromkeys(uuids)
        ]

    @asynccontextmanager
    async def install(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        *,
        requester: Requester,
        pool: str | None = None,
        path: str = "the file",
    ) -> AsyncIterator[ClientRequest]:
        """Installs the image file that a client has open as `fd`. `path` is for messages only."""
        if isinstance(uuid := manifest.get("uuid"), str):
            check_uuid(in_lower_case(uuid))  # imgadm reports a wrong uuid first, and no other fault
        loaded = load(_dated(manifest), rules="install")
        spec = ImportSpec(loaded.uuid, self._catalog.pool(pool).name)

        async def work(request: ClientRequest) -> None:
            await self._refresh.pool(spec.pool)
            installing = await self._want_file(request, spec, loaded, FromFile(fd, path), requester)
            await self._table.follow(request, [] if installing is None else [installing])

        async with self._running(requester.client, work) as request:
            yield request

    @asynccontextmanager
    async def watch(self, uuid: str | None) -> AsyncIterator[ClientRequest]:
        """Gives the events of all imports, or those of one image's imports until they have ended."""
        if uuid is not None:
            check_uuid(uuid)

        async def work(request: ClientRequest) -> None:
            if uuid is None:
                await self._table.follow_all(request)
                return
            imports = await self._imports_of(uuid, request)
            if not imports and not self._installed_anywhere(uuid):
                raise ImageNotInstalledError(uuid, self._catalog.pool(None).name)
            for each in imports:
                each.follow(request)
            await self._table.follow(request, imports)

        async with self._running("", work) as request:
            yield request

    async def _imports_of(self, uuid: str, request: ClientRequest) -> list[Import]:
        """The imports of an image, once those of an earlier daemon have begun."""
        announced = ""
        while not (imports := self._table.of_image(uuid)):
            waiting = next((each for key, each in self._waiting.items() if key[1] == uuid), None)
            if waiting is None or self._installed_anywhere(uuid):
                break
            if waiting.error not in ("", announced):
                announced = waiting.error
                request.emit(Note(event="note", text=f"the import waits, and is tried again: {announced}"))
            await trio.sleep(_WAITING_PAUSE)
        return imports

    async def cancel(self, uuid: str) -> None:
        """Cancels an image's imports for all clients, also those that wait to be tried again."""
        check_uuid(uuid)
        imports = self._table.of_image(uuid)
        waiting = self._still_waiting(uuid)
        for unwanted in waiting:
            unwanted.scope.cancel()
        if not imports and not waiting:
            if self._installed_anywhere(uuid):
                raise UsageError(
                    f'image "{uuid}" is installed, not being imported',
                    hint="`imgctl jobs` lists imports under way",
                )
            raise ImageNotInstalledError(
                uuid, self._catalog.pool(None).name, hint="`imgctl jobs` lists imports under way"
            )
        for each in imports:
            each.cancel("it was cancelled")
            await each.finished.wait()
        for unwanted in waiting:
            await unwanted.ended.wait()
        for unwanted in waiting:
            if unwanted.failure is not None:
                raise unwanted.failure

    def plan(self, spec: ImportSpec) -> Plan:
        """The plan for an image, still empty. The plan reads the state of the pool whenever it needs it."""
        return Plan(spec, lambda uuid: self._state(spec.pool, uuid), self._platform)

    # -- one request -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _import(
        self, specs: Sequence[ImportSpec], requester: Requester
    ) -> AsyncIterator[ClientRequest]:
        async def work(request: ClientRequest) -> None:
            await self._refresh.pool(specs[0].pool)
            wanted = [await self._want(request, spec, requester) for spec in specs]
            await self._table.follow(request, [each for each in wanted if each is not None])

        async with self._running(requester.client, work) as request:
            yield request

    @asynccontextmanager
    async def _running(
        self, client: str, work: Callable[[ClientRequest], Awaitable[None]]
    ) -> AsyncIterator[ClientRequest]:
        """Runs `work` alongside the block that reads the events, until either has ended."""
        request = ClientRequest(client)
        ended = trio.Event()

        async def serve() -> None:
            try:
                with request.scope:
                    await request.run(lambda: work(request))
            finally:
                self._table.let_go(request)
                request.end(StoppingError(hint="it resumes when it is back"))
                ended.set()

        self._table.nursery.start_soon(serve)
        try:
            yield request
        finally:
            request.scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()

    async def _want(self, request: ClientRequest, spec: ImportSpec, requester: Requester) -> Import | None:
        """The import of the image, which the request has joined; None when the image is installed."""
        wanted = await self._joinable(spec)
        if self._is_installed(request, spec):
            return None
        if wanted is None:
            log_id = fresh()
            try:
                wanted = await self._start(request, spec, requester, log_id)
            except ImgstoreError as error:
                action = Action("import", spec.uuid, "", "", spec.pool, import_id=log_id)
                self._refuse(action, requester, error)
                raise
            if wanted is None:
                return None
        else:
            source = wanted.action.source or "a local file"
            request.emit(_importing(wanted.manifest, source, channel=None))
        if wanted.clients:
            self._events.publish(CacheHit("joined"))
            log.debug("joined", uuid=spec.uuid, client=requester.client, import_id=wanted.import_id)
        self._join(request, wanted)
        return wanted

    async def _start(
        self, request: ClientRequest, spec: ImportSpec, requester: Requester, log_id: str
    ) -> Import | None:
        """Plans the image's ancestry, and starts the imports; None if the image is installed by then."""
        self._check_journal()
        plan = self.plan(spec)
        await self._walk(request, plan, log_id)
        await self._outlast_endings(plan)
        while plan.is_stale():
            plan.look_again()
            await self._walk(request, plan, log_id)
            await self._outlast_endings(plan)
        if plan.base is not None:
            request.emit(AncestorInstalled(event="ancestor-installed", uuid=plan.base))
        if plan.refusals:
            raise plan.refusals[0]
        # There is no await from here on, so the list of imports cannot change before they are started.
        for found in plan.to_do():
            self._begin(self._import_of(spec, found), requester)
        installed = self._catalog.find(*spec.key)
        if installed is not None:
            request.emit(_already_installed(installed))
            return None
        return self._table.get(spec.key)

    async def _walk(self, request: ClientRequest, plan: Plan, log_id: str) -> None:
        """Fills in the plan, down to an image that is installed or under way."""
        spec = plan.spec
        while (uuid := plan.next()) is not None:
            head = uuid == spec.uuid
            found = await self._find(spec.of(uuid), log_id if head else fresh(), active=head)
            plan.add(found)
            if head:
                request.emit(_importing(found.manifest, public(found.source.url), spec.channel))
                request.emit(GatheringAncestry(event="ancestry", uuid=uuid))

    async def _outlast_endings(self, plan: Plan) -> None:
        """Waits while images of the plan are being deleted, or cleaned up after a cancelled import."""
        while True:
            if (ending := self._ending_in(plan)) is not None:
                await ending.wait()
            elif (uuid := plan.in_deletion()) is not None:
                await self._deletions.wait_for((plan.spec.pool, uuid))
            else:
                return

    def _ending_in(self, plan: Plan) -> trio.Event | None:
        """The end of an import of the plan's images that was cancelled, and is still cleaning up."""
        for key in ((plan.spec.pool, step.uuid) for step in plan.steps):
            started, waiting = self._table.get(key), self._waiting.get(key)
            if started is not None and started.cancelled:
                return started.finished
            if waiting is not None and waiting.cancelled:
                return waiting.ended
        return None

    def _import_of(self, spec: ImportSpec, found: Found) -> Import:
        """The import of an image that a source has; its origin's import is in the table, if there is one."""
        manifest, locations, signed = found.manifest, found.locations, found.signed
        origin = manifest.origin
        if spec.zstream and signed is None:
            # Another source may have made another stream of the image.
            manifest, locations, signed = replace(manifest, file=None), locations[:1], None
        return Import(
            spec.of(manifest.uuid),
            manifest,
            locations,
            resources=self._resources,
            events=self._events,
            origin=None if origin is None else self._table.get((spec.pool, origin)),
            source=public(found.source.url),
            signed=signed,
            import_id=found.import_id,
        )

    async def _want_file(
        self,
        request: ClientRequest,
        spec: ImportSpec,
        manifest: Manifest,
        given: FromFile,
        requester: Requester,
    ) -> Import | None:
        """The import of an image whose file the client has given; as `_want`."""
        origin = (spec.pool, manifest.origin or "")
        wanted = await self._joinable(spec)
        while self._deletions.under_way(origin):
            await self._deletions.wait_for(origin)
            wanted = await self._joinable(spec)
        if self._is_installed(request, spec):
            return None
        if wanted is None:
            log_id = fresh()
            try:
                self._check_origin(spec.pool, manifest.origin)
            except ImgstoreError as error:
                named = manifest.name, manifest.version
                action = Action("install", spec.uuid, *named, spec.pool, import_id=log_id)
                self._refuse(action, requester, error)
                raise
            self._table.check_running()
            wanted = Import(
                spec,
                manifest,
                # The client may leave, and close its file, while others still want the image.
                FromFile(os.dup(given.fd), given.path),
                resources=self._resources,
                events=self._events,
                import_id=log_id,
            )
            self._begin(wanted, requester)
        else:
            self._events.publish(CacheHit("joined"))
        request.emit(
            Installing(event="installing", uuid=manifest.uuid, name=manifest.name, version=manifest.version)
        )
        wanted.follow(request)
        wanted.join(request, requester.client)
        return wanted

    def _begin(self, begun: Import, requester: Requester) -> None:
        """Starts an import, and tells the one of an earlier daemon, if that waits."""
        self._table.start(begun, requester)
        if (waiting := self._waiting.get(begun.spec.key)) is not None:
            waiting.other_begins()

    async def _joinable(self, spec: ImportSpec) -> Import | None:
        """The image's import, or None, once no deletion and no cancelled import of it is under way."""
        while True:
            wanted = await self._table.joinable(spec.key)
            waiting = self._waiting.get(spec.key)
            if waiting is not None and waiting.cancelled:
                await waiting.ended.wait()
            elif self._deletions.under_way(spec.key):
                await self._deletions.wait_for(spec.key)
            else:
                return wanted

    def _check_origin(self, pool: str, origin: str | None) -> None:
        if origin is not None and self._catalog.find(pool, origin) is None:
            raise OriginNotInstalledError(
                f'origin image "{origin}" is not installed in pool "{pool}"',
                hint=f"install it first: `imgctl import {origin}`",
            )

    def _join(self, request: ClientRequest, wanted: Import) -> None:
        """Makes the request follow the import and those of its ancestors, and keep the import alive."""
        chain = list(wanted.chain())
        sizes = [each.figures.total for each in chain]
        size = None if None in sizes else sum(size or 0 for size in sizes)
        request.emit(Planned(event="plan", images=len(chain), size=size))
        for each in chain:
            each.follow(request)
        wanted.join(request, request.client)

    def _refuse(self, action: Action, requester: Requester, error: ImgstoreError) -> None:
        """Publishes that an import failed before it began."""
        # An import of an earlier daemon is tried again, so one failure is not its end.
        if requester is not _AFTER_RESTART:
            self._events.publish(Refused(action, requester, error))

    # -- after a restart -------------------------------------------------------------------------------------

    async def _go_on(self, spec: ImportSpec) -> None:
        """Resumes an import of an earlier daemon; tries again while no source answers.

        Gives up once the journal no longer has the import as wanted.
        """
        waiting = self._waiting[spec.key]
        try:
            with waiting.scope:
                await self._try_to_go_on(spec, waiting)
            if waiting.cancelled and self._table.get(spec.key) is None:
                await self._drop_unwanted(spec, waiting)
        finally:
            del self._waiting[spec.key]
            waiting.ended.set()

    async def _drop_unwanted(self, spec: ImportSpec, waiting: _Waiting) -> None:
        """Drops what a waiting import leaves: no import of this daemon does so."""
        kept = KEPT[End.ABANDONED]
        drop = partial(self._resources.leftovers.drop, *spec.key, kept, locked=False)
        with trio.CancelScope(shield=True):
            try:
                await self._catalog.finish(spec.pool, drop)
            except ImgstoreError as error:
                log.error("what an import left cannot be removed", uuid=spec.uuid, error=error.message)
                waiting.leaves(error)
            except Exception as error:
                # One cancellation must not take the daemon with it.
                log.exception("what an import left cannot be removed", uuid=spec.uuid)
                waiting.leaves(InternalError.unexpected("the cancellation", error))

    async def _try_to_go_on(self, spec: ImportSpec, waiting: _Waiting) -> None:
        log.info("going on with an unfinished import", uuid=spec.uuid, pool=spec.pool)
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._import([spec], _AFTER_RESTART) as request:
                    async for _ in request:
                        continue
            except ImgstoreError as error:
                waiting.failed(error)
                if not await self._is_unfinished(spec):
                    log.warning("gave up an unfinished import", uuid=spec.uuid, error=error.message)
                    return
                log.warning("an unfinished import waits", uuid=spec.uuid, error=error.message, seconds=pause)
            else:
                return
            if await waiting.rested(pause):
                if (other := self._table.get(spec.key)) is not None:
                    await other.finished.wait()
                if not await self._is_unfinished(spec):
                    return  # a client had it installed, or has left it
            pause = min(2 * pause, _LAST_PAUSE)

    async def _is_unfinished(self, spec: ImportSpec) -> bool:
        """True if the journal has the import as wanted, or cannot be read."""
        try:
            unfinished = await lanes.in_thread(self._resources.journal.imports)
        except ImgstoreError as error:
            log.error("the journal cannot be read", error=error.message, hint=error.hint)
            return True
        return any(each.spec.key == spec.key and each.wanted for each in unfinished)

    # -- what there is ---------------------------------------------------------------------------------------

    def _state(self, pool: str, uuid: str) -> State:
        if self._catalog.find(pool, uuid) is not None:
            return "deleting" if self._deletions.under_way((pool, uuid)) else "installed"
        return "missing" if self._table.get((pool, uuid)) is None else "under-way"

    def _is_installed(self, request: ClientRequest, spec: ImportSpec) -> bool:
        image = self._catalog.find(*spec.key)
        if image is not None:
            self._events.publish(CacheHit("installed"))
            request.emit(_already_installed(image))
        return image is not None

    def _installed_anywhere(self, uuid: str) -> InstalledImage | None:
        return next((image for image in self._catalog.all() if image.uuid == uuid), None)

    # -- in the sources --------------------------------------------------------------------------------------

    async def _find(self, spec: ImportSpec, log_id: str, *, active: bool) -> Found:
        """The image in the sources of the spec. Concurrent callers share one search, and its error."""
        return await self._sources.find_shared(
            spec.uuid,
            active=active,
            sources=spec.sources,
            channel=spec.channel,
            import_id=log_id,
            nursery=self._table.nursery,
            copies=not spec.zstream,
        )


def _job_of(waiting: _Waiting) -> JobDocument:
    """The *job* of an import that has not begun again."""
    return {
        "import_id": "",
        "uuid": waiting.spec.uuid,
        "name": waiting.name,
        "version": waiting.version,
        "pool": waiting.spec.pool,
        "phase": "waiting",
        "done": 0,
        "total": None,
        "received": 0,
        "connections": 0,
        "source": None,
        "clients": [_AFTER_RESTART.client],
        "started_at": waiting.since,
        "error": waiting.error or None,
        "rate": 0.0,
        "limits": None,
        "eta": None,
        "fraction": None,
        "delta": None,
    }


def _importing(manifest: Manifest, source: str, channel: str | None) -> Importing:
    return Importing(
        event="importing",
        uuid=manifest.uuid,
        name=manifest.name,
        version=manifest.version,
        source=source,
        channel=channel,
    )


def _already_installed(image: InstalledImage) -> AlreadyInstalled:
    return AlreadyInstalled(
        event="already-installed", uuid=image.uuid, name=image.text("name"), version=image.text("version")
    )


def _dated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, with the current time as `published_at` if it has none, as imgadm does."""
    now = timestamp(datetime.now(UTC))
    return {**manifest, "published_at": manifest.get("published_at") or now}
