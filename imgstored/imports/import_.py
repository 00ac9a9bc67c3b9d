"""One import: how one image gets from its source into its pool. Read it from `run` downwards.

    acquire a slot ──► download ──► spool ──┐
                                            ▼
    wait for the origin ──► acquire lock ──► digest ──► decompress ──► pool.receive ──► pool.publish

The download and the receiving run alongside. `publish` is the commit: before it no reader sees anything of
the image. An import holds imgadm's lock of its image from before the pool's first byte until the import ends.
`imgstored.imports.state` has the phases, and what is kept after which end.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
import trio
from imgproto.events import (
    AlreadyInstalled,
    Downloaded,
    Installed,
    InstalledMeanwhile,
    Note,
    Resumed,
    WaitingForLock,
)
from msgspec import Struct

from imgstored import lanes
from imgstored.catalog.catalog import InstalledImage, show
from imgstored.catalog.image_locks import IMPORT_TIMEOUT
from imgstored.catalog.receipts import receipt_of
from imgstored.errors import (
    CancelledError,
    DownloadError,
    ImgstoreError,
    InternalError,
    NoSpaceError,
    PoolError,
    ResumeError,
    StoppingError,
)
from imgstored.events.stream import (
    Action,
    Ended,
    EventStream,
    ImportEvent,
    PhaseChanged,
    Requester,
    Started,
    outcome_of,
)
from imgstored.host import foreign_files, shortage
from imgstored.http.location import origin_of, public
from imgstored.imports.delta import Delta, Deltas
from imgstored.imports.figures import Figures
from imgstored.imports.free_space import CancellableRoom, watched
from imgstored.imports.leftovers import spool_name
from imgstored.imports.local_file import FromFile, LocalFile, keep_copy
from imgstored.imports.pipeline import Pipeline
from imgstored.imports.state import KEPT, WRONG_BYTES_ERRORS, End, check_transition, end_after, final_phase
from imgstored.pools.refusals import in_the_way
from imgstored.transfer.digest import Expected, WrongFileError
from imgstored.transfer.mirror import ChangedError
from imgstored.transfer.stages import Stages
from imgstored.zstream.records import HEADER_SIZE, byte_order_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imgproto.documents import Phase
    from imgproto.events import EventDocument

    from imgstored.events.request import ClientRequest
    from imgstored.http.location import Location, Verify
    from imgstored.imports.free_space import Claim
    from imgstored.imports.resources import Resources
    from imgstored.imports.spec import ImportSpec
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Occupant, PoolImage, Room
    from imgstored.site.trust import Provenance
    from imgstored.transfer.download import Download
    from imgstored.transfer.pump import Pieces, Pump

_Answer = TypeVar("_Answer")

log = structlog.get_logger(__name__)

#: Notes to watchers; the log has all of them.
MAX_NOTES = 50

#: Seconds between two looks at a dataset that somebody else works on, and how long it may stay unchanged
#: while it is being received, and otherwise, when only a snapshot or a manifest is missing.
_PAUSE: Final = 0.5
_STANDSTILL: Final = 60.0
_UNSETTLED: Final = 15.0


_MIB: Final = 1 << 20

#: Attempts of one import, each of which begins again with another mirror, or in the pool.
_MAX_ATTEMPTS = 4


class _Result(Struct, frozen=True):
    """The result of an import: an error, or the image of somebody else who was faster."""

    end: End
    error: ImgstoreError | None = None
    image: InstalledImage | None = None
    waited: bool = False  #: for somebody else's lock


class Import:
    """An import, shared by everybody who wants its image: clients, and imports of images cloned from it.

    When the last of them leaves, the import is cancelled. It lives in trio's thread, and only its own methods
    change it.
    """

    def __init__(
        self,
        spec: ImportSpec,
        manifest: Manifest,
        data: Sequence[Location] | FromFile,
        *,
        resources: Resources,
        events: EventStream,
        import_id: str,
        origin: Import | None = None,
        source: str | None = None,
        signed: Provenance | None = None,
    ) -> None:
        """`data` is where the image's file comes from; `source` is its URL for people, None for a local file.

        `signed` is who vouches for the image. `origin` is the import that brings the image's origin, None
        where the origin is installed.
        """
        self.spec = spec
        self.import_id = import_id  #: in all its log lines
        self.manifest = manifest
        self.origin = origin
        self.action = Action(
            "install" if isinstance(data, FromFile) else "import",
            manifest.uuid,
            manifest.name,
            manifest.version,
            spec.pool,
            source,
            import_id,
        )
        self.started_at = time.time()  #: seconds since the epoch
        self.phase: Phase = "waiting"
        self.error: ImgstoreError | None = None
        #: Set once the journal has the import, which then survives a restart; for a client's file, at once.
        self.written = trio.Event()
        self.finished = trio.Event()
        self.stages = Stages()
        self.delta: Delta | None = None  #: while one is tried
        self._data = data
        self._signed = signed
        self._resources = resources
        self._events = events
        self._pool = resources.catalog.pool(spec.pool)
        total = None if manifest.file is None else manifest.file.size
        self.figures = Figures(self.stages, total, from_file=isinstance(data, FromFile))
        self._pipeline = Pipeline(spec, manifest, resources, self.stages, self._note, signed)
        self._scope = trio.CancelScope()
        self._cancelled_because: str | None = None
        self._clients: dict[object, str] = {}
        self._past: list[EventDocument] = []
        self._lock = AsyncExitStack()  # holds the image's lock until the import has ended
        self._locked = False
        self._download: Download | None = None
        self._pump: Pump | None = None
        self._converted = not isinstance(data, FromFile) and any(each.contents != "image" for each in data)
        self._received: PoolImage | None = None
        self._pool_room: Claim  # while it runs
        self._claims: list[Claim] = []
        self._free_before = 0  # bytes of the pool, before it got anything of the image

    # -- clients ---------------------------------------------------------------------------------------------

    @property
    def uuid(self) -> str:
        """The image's uuid."""
        return self.spec.uuid

    @property
    def clients(self) -> list[str]:
        """The names of those who want the image."""
        return list(self._clients.values())

    def join(self, token: object, client: str) -> None:
        """Adds somebody who wants the image; `token` is what it leaves with."""
        self._clients[token] = client

    def leave(self, token: object) -> None:
        """Removes somebody who wants the image, if it joined. The last one to leave cancels the import."""
        if self._clients.pop(token, None) is not None and not self._clients:
            self.cancel("nobody wants it any more")

    @property
    def cancelled(self) -> bool:
        """True if it was cancelled: nobody can join it any more, though it may still be cleaning up."""
        return self._scope.cancel_called

    def cancel(self, reason: str) -> None:
        """Cancels the import, unless it has ended."""
        if not self.finished.is_set():
            self._cancelled_because = self._cancelled_because or reason
            self._scope.cancel()

    # -- the whole of it -------------------------------------------------------------------------------------

    def begin(self, requester: Requester) -> None:
        """Publishes the start. Nobody wants the import yet: the caller joins it before the next await."""
        if self.origin is not None:
            self.origin.join(self, f"image {self.uuid}")
        self._events.publish(Started(self.action, requester))

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Brings the image into its pool, and ends in one of the final phases, whatever happens.

        `stopping` says whether the daemon is stopping: then a cancelled import keeps all that it has.
        """
        log.info("installing", uuid=self.uuid, pool=self.spec.pool, source=self.action.source)
        self._warn_of_oddities()
        self._pool_room = self._resources.free_space.claim_pool(self._pool)
        self._claims.append(self._pool_room)
        result: _Result | None = None
        try:
            async with self._lock:
                try:
                    with self._scope:
                        result = await self._bring_in()
                        if result.end is End.INSTALLED:
                            await self._keep_original()
                finally:
                    for claim in self._claims:
                        claim.close()
                    # Without a result it was cancelled: by those who wanted it, or with the whole daemon.
                    cancelled = End.STOPPED if stopping() else End.ABANDONED
                    await self._drop(cancelled if result is None else result.end)
                    if isinstance(self._data, FromFile):
                        foreign_files.close(self._data.fd)
        finally:
            self._finish(_Result(cancelled, self._cancellation()) if result is None else result, stopping())

    def _warn_of_oddities(self) -> None:
        """Warns once of what the manifest has that imgadm's own validation would refuse."""
        if not self.manifest.odd:
            return
        odd = ", ".join(self.manifest.odd)
        log.warning("a manifest is odd, and is kept as it is", uuid=self.uuid, pool=self.spec.pool, odd=odd)
        if isinstance(self._data, FromFile):
            self._note(f"the manifest is odd, and is kept as it is: {odd}")

    async def _bring_in(self) -> _Result:
        """Does all the work. The import may be cancelled by itself, or with the whole daemon."""
        try:
            if isinstance(self._data, FromFile):
                result = await self._from_file(self._data)
            else:
                result = await self._from_library() or await self._from_sources(self._data)
            if result.end is End.INSTALLED:
                result = await self._publish()
            if result.image is not None:
                with trio.CancelScope(shield=True):
                    await self._take_over(result.image)
        except ImgstoreError as error:
            by_download = self._download is not None and self._download.failure is error
            end = end_after(
                error,
                local_file=isinstance(self._data, FromFile),
                done=self.figures.done,
                by_download=by_download,
            )
            if isinstance(error, NoSpaceError) and end is End.FAILED:
                await self._remember_shortage(error)
            dropped = not KEPT[end].download
            log.warning(
                "not installed", uuid=self.uuid, error=error.message, code=error.code, dropped=dropped
            )
            return _Result(end, error)
        except Exception as error:
            # One import must not take the daemon with it.
            log.exception("an import failed because of a fault in imgstored", uuid=self.uuid)
            return _Result(End.FAILED, InternalError.unexpected(f'the import of image "{self.uuid}"', error))
        return result

    async def _remember_shortage(self, error: NoSpaceError) -> None:
        """Writes down how much the image took of the full pool, with what came next: the next try needs that.

        A pool may compress the stream, and others may have filled the pool, too: the lower figure is certain.
        """
        left, more = error.data.get("free", 0), error.data.get("more", 0)
        taken = min(self.figures.received, max(0, self._free_before - left) + more)
        journal = self._resources.journal
        try:
            await lanes.in_thread(journal.found_needed, *self.spec.key, taken)
        except ImgstoreError as failure:
            log.error("a shortage cannot be written down", uuid=self.uuid, error=failure.message)

    def enter(self, phase: Phase) -> None:
        """Changes the phase. The only place that does. Raises `ValueError` for a wrong transition."""
        check_transition(self.phase, phase)
        self.phase = phase
        self._events.publish(PhaseChanged(self.action, phase))

    # -- from a local file -----------------------------------------------------------------------------------

    async def _from_file(self, given: FromFile, verify: Verify = "first") -> _Result:
        self.written.set()
        file = LocalFile(given.fd, given.path)
        await file.look()
        expected = self._pipeline.expected(path=given.path)
        if expected.size is not None and file.size != expected.size:
            raise WrongFileError(
                f"image file size error: manifest says {expected.size} bytes, "
                f"{given.path} is {file.size} bytes",
                hint="the manifest belongs to another file",
            )
        self._pump = self._pipeline.of_file(file, verify)
        self.figures.begin_file(self._pump, file.size)
        self.enter("receiving")
        return await self._receive(self._pump, at_least=file.size)

    # -- from the library ------------------------------------------------------------------------------------

    async def _from_library(self) -> _Result | None:
        """Receives the library's file; None where the library has no file, or one that is not the image's."""
        library = self._resources.library
        if library is None or not library.has_file_of(self.manifest):
            return None
        fd = await lanes.in_thread(library.open_file, self.uuid, kind="library")
        if fd is None:
            return None
        journal = self._resources.journal
        try:
            async with self._resources.beginning:
                await lanes.in_thread(journal.begin, self.spec, self.manifest.document)
            log.info("its file is in the library", uuid=self.uuid)
            self._note("its file is in the library: nothing is downloaded")
            return await self._from_file(FromFile(fd, "the library's file"), "streaming")
        except (DownloadError, *WRONG_BYTES_ERRORS) as error:
            if isinstance(error, NoSpaceError):
                raise
            log.error("a file of the library is damaged", uuid=self.uuid, error=error.message)
            self._note(f"the library's file cannot be used: {error.message}")
            await self._drop(End.WRONG_BYTES)
            await lanes.in_thread(library.set_aside, self.uuid, kind="library")
            if not self._data:
                raise DownloadError(
                    f"the library's file of image {self.uuid} is damaged: {error.message}",
                    hint="try again: it was set aside, and the next import asks the sources",
                ) from error
            return None
        finally:
            with trio.CancelScope(shield=True):
                await lanes.in_thread(os.close, fd, kind="library")

    # -- from sources ----------------------------------------------------------------------------------------

    async def _from_sources(self, locations: Sequence[Location]) -> _Result:
        """Downloads and receives; tries again elsewhere when what came was not the image."""
        journal = self._resources.journal
        async with self._resources.beginning:
            await lanes.in_thread(journal.begin, self.spec, self.manifest.document)
        self.written.set()
        shortage_now = await self._ask(self._known_shortage)
        if shortage_now is not None:
            log.warning("not installed", uuid=self.uuid, error=shortage_now.message, code=shortage_now.code)
            return _Result(End.FAILED, shortage_now)
        free_space = self._resources.free_space
        warning = await self._ask(lambda: free_space.warning(self._pool, self.manifest))
        if warning is not None:
            self._note(warning)
        return await self._attempt_until_right(locations)

    async def _attempt_until_right(self, locations: Sequence[Location]) -> _Result:
        """Downloads and receives, in as many attempts as are worth it. Raises the last one's error."""
        spool_room = await self._claim_spool()
        # The download reserves its exact size. A registry's disk also takes room for its unpacked data.
        disk_room = await self._claim_spool() if self._converted else None
        attempt = 1
        self.delta = await self._begin_delta(locations, spool_room)
        while True:
            locations = self._pipeline.reusing(locations, layers=attempt == 1)
            if self.delta is None:
                download, pump = self._pipeline.of_locations(locations, spool_room, disk_room)
            else:
                download, pump = self._pipeline.of_delta(self.delta, locations, spool_room)
            self._download, self._pump = download, pump
            self.figures.begin_download(download, pump)
            try:
                return await self._transfer(download, pump)
            except (ResumeError, *WRONG_BYTES_ERRORS, NoSpaceError) as error:
                locations = await self._elsewhere(error, download, locations, last=attempt == _MAX_ATTEMPTS)
            attempt += 1

    async def _elsewhere(
        self, error: ImgstoreError, download: Download, locations: Sequence[Location], *, last: bool
    ) -> Sequence[Location]:
        """Drops wrong bytes; returns the locations for the next attempt. Raises `error` if none is left."""
        if isinstance(error, ResumeError):
            # The bytes are right; the pool has dropped the part that it could not continue.
            if last:
                raise error
            log.warning("receiving afresh", uuid=self.uuid, error=error.message)
            self._note(f"{error.message}; receiving it from the beginning")
            return locations
        if self.delta is not None and (not isinstance(error, NoSpaceError) or download.failure is error):
            await self._end_delta(error)
            return locations
        others = [] if isinstance(error, NoSpaceError) or last else _worth_asking(download, error)
        if not others:
            raise error
        log.warning("beginning anew", uuid=self.uuid, error=error.message)
        self._note(f"{error.message}; beginning anew with {public(others[0].source)}")
        await self._drop(End.WRONG_BYTES)
        return others

    async def _claim_spool(self) -> Claim:
        claim = await lanes.in_thread(self._resources.free_space.claim_spool)
        self._claims.append(claim)
        return claim

    async def _begin_delta(self, locations: Sequence[Location], room: Room) -> Delta | None:
        """A delta, if one is worth trying. A fault of its index does not fail the import."""
        deltas, delta = Deltas(self.spec, self.manifest, self._resources), None
        try:
            delta = await deltas.begin(locations, room)
        except (DownloadError, NoSpaceError) as error:
            log.warning("no delta", uuid=self.uuid, error=error.message)
            self._note(f"{error.message}; fetching the whole file")
        self.figures.add_fetched(deltas.fetched)
        if delta is None and await lanes.in_thread(deltas.is_left):
            await self._drop(End.WRONG_BYTES)
        return delta

    async def _end_delta(self, error: ImgstoreError) -> None:
        """Gives a delta up, and drops what the pool received of it, which nobody has verified."""
        log.warning("a delta is given up", uuid=self.uuid, error=error.message)
        self._note(f"{error.message}; fetching the whole file")
        self.delta = None
        await self._drop(End.WRONG_BYTES)

    def _known_shortage(self) -> NoSpaceError | None:
        """The error where an earlier try found out that the image needs more room than there is. Blocks."""
        needed = self._resources.journal.needed(*self.spec.key)
        try:
            if needed and self.uuid not in self._pool.partials():
                self._resources.free_space.check_pool(self._pool, needed)
        except NoSpaceError as error:
            return NoSpaceError(
                f"{error.message}: an earlier try took as much, and was not complete",
                hint=f"{error.hint}; what was downloaded is kept",
                data=error.data,
            )
        return None

    async def _transfer(self, download: Download, pump: Pump) -> _Result:
        """Downloads and receives at the same time. A failure of one ends both; the first failure counts."""
        failures: list[ImgstoreError] = []
        result: _Result | None = None

        async def fetch() -> None:
            try:
                await self._fetch(download)
            except ImgstoreError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            try:
                result = await self._receive(pump, at_least=download.total or 0)
            except ImgstoreError as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        assert result is not None
        return result

    async def _fetch(self, download: Download) -> None:
        """Downloads the file into the spool, once there is a slot."""
        slots = self._resources.download_slots

        def opened(present: int) -> None:
            if self.delta is not None:
                log.info("a delta", uuid=self.uuid, basis=self.delta.basis.uuid, fetching=self.delta.to_fetch)
                self._note(self.delta.summary)
            elif present:
                log.info("resuming", uuid=self.uuid, present=present, total=download.total)
                self._emit(Resumed(event="resumed", uuid=self.uuid, size=present, total=download.total))

        with self.stages.turn:
            await slots.acquire()
        try:
            self.enter("downloading")
            download.watermark.begin()
            await self._ask(partial(self._reserve, download.total or 0))
            began = time.monotonic()
            await download.run(opened)
            if self.delta is None:
                fetched = {
                    origin_of(each.location.source).authority: each.fetched for each in download.mirrors
                }
                self._resources.rates.note_link(fetched, time.monotonic() - began)
        finally:
            slots.release()
        self.enter("receiving")
        size = download.done if self.delta is None else self.delta.to_fetch or 0
        self._emit(Downloaded(event="downloaded", uuid=self.uuid, size=size))

    # -- into the pool ---------------------------------------------------------------------------------------

    async def _receive(self, pump: Pump, *, at_least: int) -> _Result:
        """Receives into the pool's partial. No thread is left on return, whatever happened."""
        if self.origin is not None:
            with self.stages.origin:
                await self.origin.finished.wait()
            if self.origin.error is not None:
                return _Result(End.ORIGIN_FAILED, self.origin.error)
        # Only now: an import that waits for its origin must not keep others from its image.
        with self.stages.lock:
            there = await self._acquire_lock()
        if there is not None:
            return there

        def receive(stream: Pieces) -> PoolImage:
            there = self._reserve(at_least)
            room = self._pool_room
            arrive = self._pool.receive
            if self.manifest.type == "docker":
                # From an image server comes the layer itself; an exported image is a stream, like all others.
                is_stream, stream = _begins_stream(stream)
                arrive = self._pool.receive if is_stream else self._pool.unpack
            cancellable = CancellableRoom(room, pump.check)
            # Closed here: a thread that collects the generator later may have the lock that its end takes.
            with closing(watched(stream, room, there)) as stream:
                return arrive(self.uuid, stream, origin=self.manifest.origin, room=cancellable)

        failure: ImgstoreError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_with_us, pump)
            try:
                self._received = await trio.to_thread.run_sync(
                    pump.run, receive, limiter=self._resources.receive_slots
                )
            except ImgstoreError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return _Result(End.INSTALLED)

    def _reserve(self, at_least: int) -> int:
        """Reserves room in the pool for a stream of `at_least` bytes; returns how many are there. Blocks.

        A stream is rarely smaller than its file; its size shows as it comes. Raises `NoSpaceError`.
        """
        there = self._pool.resume_point(self.uuid)
        self._free_before = self._pool_room.expect(max(0, at_least - there))
        return there

    async def _acquire_lock(self) -> _Result | None:
        """Takes the image's lock until the import has ended; a result if somebody else has installed it."""
        if self._locked:
            return None  # by an attempt before

        def on_wait(holder: str) -> None:
            self._note(f"the lock of image {self.uuid} is held by {holder}")
            self._emit(WaitingForLock(event="waiting-for-lock", uuid=self.uuid))

        held = self._resources.locks.held(self.uuid, on_wait, seconds=IMPORT_TIMEOUT)
        waited = await self._lock.enter_async_context(held)
        self._locked = True
        return await self._wait_for_others(waited=waited)

    async def _wait_for_others(self, *, waited: bool = False) -> _Result | None:
        """Returns None once nothing has the image's name in the pool; a result if the image is there.

        Others may install images without imgadm's lock, and receive them straight into POOL/UUID. This waits
        for them as long as the dataset changes. Raises `PoolError` if the name belongs to something that is
        no image, or that does not become one.
        """
        before, deadline = None, 0.0
        while (found := await self._ask(self._occupant)) is not None:
            occupant, image = found
            if image is not None:
                waited = waited or before is not None
                return _Result(End.INSTALLED_BY_OTHERS, image=image, waited=waited)
            if before is None and not occupant.hidden:
                log.info("somebody else is at work on an image", uuid=self.uuid, dataset=occupant.name)
                what = "is being received by another program" if occupant.receiving else "is not an image yet"
                self._note(f"{occupant.name} {what}; waiting for that")
            if occupant != before:
                timeout = _STANDSTILL if occupant.receiving else _UNSETTLED
                before, deadline = occupant, trio.current_time() + timeout
            if occupant.hidden or trio.current_time() > deadline:
                raise in_the_way(occupant)
            await trio.sleep(_PAUSE)
        return None

    def _occupant(self) -> tuple[Occupant, InstalledImage | None] | None:
        """The dataset with the image's name in the pool; and the image, if it is one and whole. Blocks."""
        occupant = self._pool.occupant(self.uuid)
        if occupant is None:
            return None
        whole = None if occupant.image is None else self._resources.catalog.look_at(*self.spec.key)
        return occupant, whole

    async def _publish(self) -> _Result:
        """Makes the image visible to every reader, unless somebody else has installed it meanwhile."""
        there = await self._wait_for_others()
        if there is not None:
            return there
        self.enter("installing")
        try:
            with self.stages.publishing, trio.CancelScope(shield=True):
                image = await self._resources.catalog.finish(
                    self.spec.pool, self._commit, self._note_no_answer
                )
                self._resources.catalog.add(image)
                await show(self._resources.view, image)
        except PoolError:
            self.enter("receiving")
            there = await self._wait_for_others()
            if there is not None:
                return there
            raise
        return _Result(End.INSTALLED)

    def _commit(self) -> InstalledImage:
        """Writes the manifest, and then renames the pool's partial: the commit. Blocks."""
        catalog, source = self._resources.catalog, self.action.source
        pool, uuid = self.spec.key
        manifest = self._described()
        catalog.write_manifest(pool, uuid, manifest, source)
        self._write_receipt()
        image = self._pool.publish(uuid)
        catalog.keep_manifest(pool, uuid)
        return InstalledImage(pool, image, manifest, source)

    def _described(self) -> Mapping[str, Any]:
        """The manifest, with the size that the disk of a registry turned out to have."""
        manifest, image = self.manifest.document, self._received
        if not self._converted or image is None:
            return manifest
        return {**manifest, "image_size": -(-image.referenced // _MIB)}

    def _write_receipt(self) -> None:
        image, receipts = self._received, self._resources.receipts
        if receipts is None or image is None:
            return
        origin = None if image.origin is None else self._pool.image(image.origin)
        receipt = receipt_of(
            image, self.figures.received, None if origin is None else origin.guid, signed=self._signed
        )
        try:
            receipts.write(*self.spec.key, receipt)
        except OSError as error:
            raise PoolError(
                f"the receipt of image {self.uuid} cannot be written: {shortage.why(error)}",
                hint="look at the file system with the daemon's state",
            ) from error

    async def _keep_original(self) -> None:
        """Gives the library the file as it came. The image is installed, whether that works or not."""
        library = self._resources.library
        if library is None or self._converted or library.has_file_of(self.manifest):
            return  # other hosts could not install the file of a registry's disk
        try:
            if isinstance(self._data, FromFile):
                assert self._pump is not None
                read = Expected(
                    self.uuid, size=self._pump.compressed, sha1=self._pump.sha1, path=self._data.path
                )
                # The thread lasts as long as the file's disk takes, so it counts as a receive, as before.
                copy = partial(
                    keep_copy, self._data, library, self.manifest, read, self._resources.free_space
                )
                await trio.to_thread.run_sync(copy, limiter=self._resources.receive_slots)
            else:
                spool = self._resources.spools / spool_name(*self.spec.key)
                with trio.CancelScope(shield=True):
                    layers = () if self._download is None else self._download.layers
                    keep = partial(
                        library.keep, self.manifest, spool, layers=layers, source=self.action.source
                    )
                    await lanes.in_thread(keep, kind="library")
        except (OSError, ImgstoreError) as error:
            log.warning("the original file is not kept", uuid=self.uuid, error=str(error))
        except Exception:
            log.exception("the original file is not kept", uuid=self.uuid)

    async def _take_over(self, image: InstalledImage) -> None:
        """Lists the image that somebody else has installed."""
        self._resources.catalog.add(image)
        await show(self._resources.view, image)

    # -- its end ---------------------------------------------------------------------------------------------

    async def _drop(self, end: End) -> None:
        """Drops what the end does not keep, also when everything is cancelled."""
        drop = partial(self._resources.leftovers.drop, *self.spec.key, KEPT[end], locked=self._locked)
        with trio.CancelScope(shield=True):
            try:
                await self._resources.catalog.finish(self.spec.pool, drop, self._note_no_answer)
            except ImgstoreError as error:
                # The import's own error says more; the next start sweeps up what stays.
                log.error("what an import left cannot be removed", uuid=self.uuid, error=error.message)
            except Exception:
                log.exception("what an import left cannot be removed", uuid=self.uuid)

    def _cancellation(self) -> CancelledError:
        if self._scope.cancelled_caught:
            return CancelledError(f'the import of image "{self.uuid}" ended: {self._cancelled_because}')
        return StoppingError(hint="the import resumes when it is back")

    def _finish(self, result: _Result, stopping: bool) -> None:
        """Publishes the end, and wakes everybody who waits for it."""
        self.error = result.error
        self.enter(final_phase(result.error))
        if result.error is None:
            log.info("installed", uuid=self.uuid, pool=self.spec.pool)
            self._emit(self._announcement(result))
        self._events.publish(
            Ended(
                self.action,
                outcome_of(result.error, "installed", stopping=stopping),
                result.error,
                self.figures.done,
                self.figures.fetched,
                tuple(self.stages.seconds().items()),
                None if self.delta is None else self.delta.remark,
            )
        )
        if self.origin is not None:
            self.origin.leave(self)
        self.written.set()
        self.finished.set()

    def _announcement(self, result: _Result) -> EventDocument:
        name, version = self.manifest.name, self.manifest.version
        from_file = isinstance(self._data, FromFile)
        if result.end is End.INSTALLED:
            return Installed(
                event="installed", uuid=self.uuid, name=name, version=version, from_file=from_file
            )
        if result.waited:
            return InstalledMeanwhile(
                event="installed-meanwhile", uuid=self.uuid, name=name, version=version, from_file=from_file
            )
        return AlreadyInstalled(event="already-installed", uuid=self.uuid, name=name, version=version)

    # -- how far it is ---------------------------------------------------------------------------------------

    def follow(self, request: ClientRequest) -> None:
        """Gives a request all that has happened so far, and then what happens."""
        if self._events.subscribe(request.hear, self.action):
            self.replay(request)

    def replay(self, request: ClientRequest) -> None:
        """Gives a request all that has happened so far."""
        for event in self._past:
            request.emit(event)

    def _note(self, text: str) -> None:
        if sum(past["event"] == "note" for past in self._past) < MAX_NOTES:
            self._emit(Note(event="note", text=text))

    def _note_no_answer(self) -> None:
        """The pool changes something that cannot be abandoned, and does not answer."""
        log.warning("waiting for a pool that does not answer", uuid=self.uuid, pool=self.spec.pool)
        self._note(f'pool "{self.spec.pool}" does not answer; waiting for it')

    def _emit(self, event: EventDocument) -> None:
        self._past.append(event)
        self._events.publish(ImportEvent(self.action, event))

    def chain(self) -> Iterator[Import]:
        """The import, and the imports of all its ancestors that are not installed yet."""
        each: Import | None = self
        while each is not None:
            yield each
            each = each.origin

    # -- questions to the pool -------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Asks the pool, which may hang; raises `PoolError` then."""
        return await self._resources.catalog.ask(self.spec.pool, question)


def _worth_asking(download: Download, error: ImgstoreError) -> list[Location]:
    """The mirrors that may have the image: all, unless it is certain which one sent wrong bytes."""
    reused = any(part.path for mirror in download.mirrors for part in mirror.location.parts)
    if isinstance(error, ChangedError) or download.resumed or reused:
        return [mirror.location for mirror in download.mirrors]
    return [mirror.location for mirror in download.mirrors if not mirror.fetched]


def _begins_stream(blocks: Pieces) -> tuple[bool, Pieces]:
    """True if it is a ZFS send stream; and all of the blocks again."""
    first = next(blocks, b"")
    return byte_order_of(first[:HEADER_SIZE]) is not None, itertools.chain([first], blocks)


async def _cancel_with_us(pump: Pump) -> None:
    """Ends the pump when this task is cancelled: its thread cannot be."""
    try:
        await trio.sleep_forever()
    finally:
        pump.cancel(CancelledError("the import was cancelled"))
