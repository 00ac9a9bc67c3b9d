"""Keeps chosen images of other servers in the library: once, for a client, or on a schedule.

    the server's list ──► a filter, and origins ──► what the library lacks ──► Relay ──► the library

A file comes as it does for the image server's clients: parallel ranges, resumed, checked. Mirrored images
are not evicted. Those that no schedule chooses any more become files like those of imports.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from imgproto.events import Note, Progress
from msgspec import Struct

from imgstored import lanes
from imgstored.create.job import running
from imgstored.errors import APIError, ImgstoreError, NotSupportedError, UsageError
from imgstored.events.stream import Mirrored
from imgstored.host import foreign_files, shortage
from imgstored.http.location import public
from imgstored.manifest import load
from imgstored.mirrors.selection import Filter, matching, with_origins
from imgstored.mirrors.withdrawals import Withdrawals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from imgproto.documents import MirrorDocument, MirrorFailureDocument, NamedDocument
    from imgproto.events import EventDocument

    from imgstored.create.job import Job
    from imgstored.create.publish import Publisher
    from imgstored.events.stream import EventStream
    from imgstored.library.folder import Copy
    from imgstored.library.library import Library
    from imgstored.manifest import Manifest
    from imgstored.serve.relay import Fetch, Relay
    from imgstored.sources.source_set import SourceSet

    Tell = Callable[[EventDocument], None]

log = structlog.get_logger(__name__)

#: Seconds between two progress events, and between two tries of a schedule that failed.
_INTERVAL: Final = 0.5
_RETRY: Final = 600.0
#: Images of one server at the same time: its mirrors are to leave most places to others.
_AT_A_TIME: Final = 4
#: Notes of one kind that a client gets.
_MAX_NOTES: Final = 20


class MirrorSpec(Struct, frozen=True):
    """The images to keep, and their server."""

    url: str  #: a configured source, whose settings count, a registry, or an IMGAPI server
    wanted: Filter = Filter()
    every: float = 86400.0  #: seconds, of a schedule
    to: str | None = None  #: a registry that gets all of them, too


class _Chosen(Struct, frozen=True):
    """An image of a server."""

    manifest: Manifest

    @property
    def named(self) -> NamedDocument:
        return {"uuid": self.manifest.uuid, "name": self.manifest.name, "version": self.manifest.version}

    @property
    def size(self) -> int:
        return 0 if self.manifest.file is None else self.manifest.file.size or 0


class Mirrors:
    """Mirrors into one library. For trio's thread."""

    def __init__(
        self,
        library: Library | None,
        sources: SourceSet,
        relay: Relay | None,
        schedules: Sequence[MirrorSpec] = (),
        events: EventStream | None = None,
        *,
        publisher: Publisher | None = None,
    ) -> None:
        """`relay` is there if the library is; `publisher` gives images to registries."""
        self._publisher = publisher
        self._events = events
        self._library = library
        self._sources = sources
        self._relay = relay
        self._schedules = tuple(dict.fromkeys(schedules))
        self._running: dict[MirrorSpec, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._last: dict[MirrorSpec, frozenset[str]] = {}  # what each schedule chose last
        self._withdrawals: Withdrawals | None = None
        self._places: dict[str, trio.CapacityLimiter] = {}  # by the URL of a server

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs what fetches files, and the schedules, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            if self._relay is not None and self._library is not None:
                await nursery.start(self._relay.run)
                if not self._schedules:
                    with suppress(OSError):
                        await self._release()
                self._nursery = nursery
                self._withdrawals = Withdrawals(
                    self._library, self._sources, mirrored=self._urls, forget=self._relay.forget
                )
                nursery.start_soon(self._withdrawals.run)
                self._start()
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, schedules: Sequence[MirrorSpec]) -> None:
        """Keeps up these schedules from now on. What only others had chosen is let go."""
        before, self._schedules = self._schedules, tuple(dict.fromkeys(schedules))
        if self._nursery is None:
            if schedules:
                log.warning("mirrors begin with the daemon's next start: it has no library yet")
            return
        if self._withdrawals is not None:
            self._withdrawals.look_soon()
        gone = set(before) - set(self._schedules)
        for spec in gone:
            self._last.pop(spec, None)
            self._running.pop(spec).cancel()
        self._start()
        if gone:
            self._nursery.start_soon(self._let_go)

    def _urls(self) -> set[str]:
        """The URLs of the scheduled servers."""
        return {spec.url for spec in self._schedules}

    def _start(self) -> None:
        """Starts the schedules that do not run yet."""
        assert self._nursery is not None
        for spec in self._schedules:
            if spec not in self._running:
                self._running[spec] = scope = trio.CancelScope()
                self._nursery.start_soon(self._keep_up, spec, scope)

    async def _let_go(self) -> None:
        """Lets go of what no schedule chooses, as soon as each has chosen."""
        if len(self._last) < len(self._schedules):
            return  # the last of them does it
        try:
            await self._release()
        except OSError as error:
            log.error("the library cannot be written", error=shortage.why(error))

    async def _keep_up(self, spec: MirrorSpec, scope: trio.CancelScope) -> None:
        """One schedule, until it is cancelled."""
        with scope:
            await self._keep_up_to_date(spec)

    async def _keep_up_to_date(self, spec: MirrorSpec) -> None:
        while True:
            pause = spec.every
            try:
                done = await self._mirror(spec, lambda _: None, scheduled=True)
            except ImgstoreError as error:
                log.warning("a server cannot be mirrored", url=public(spec.url), error=error.message)
                pause = min(pause, _RETRY)
            except Exception:
                # A mirror must not take the daemon with it.
                log.exception("mirroring a server failed", url=public(spec.url))
                pause = min(pause, _RETRY)
            else:
                if done["failed"]:
                    pause = min(pause, _RETRY)
                log.info(
                    "mirrored a server",
                    url=public(spec.url),
                    chosen=done["chosen"],
                    new=len(done["new"]),
                    failed=len(done["failed"]),
                    released=len(done["released"]),
                )
            await trio.sleep(pause)

    def mirror(
        self, spec: MirrorSpec, *, client: str, dry_run: bool = False
    ) -> AbstractAsyncContextManager[Job[MirrorDocument]]:
        """Mirrors once; the job's result is what was done, or with `dry_run` would be.

        What one image fails with is in the result. Raises `NotSupportedError` without a library; the job
        `APIError`, and what sources raise.
        """
        if self._library is None:
            raise NotSupportedError(
                "this daemon keeps no original files of images",
                hint="set `library.keep_mib` or `serve.listen`",
            )
        newest = spec.wanted.newest
        if newest is not None and newest < 1:
            raise UsageError("at least the newest image of each name")

        if spec.to is not None:
            assert self._publisher is not None
            self._publisher.require_registry(spec.to)

        async def work(job: Job[MirrorDocument]) -> MirrorDocument:
            return await self._mirror(spec, job.emit, dry_run=dry_run, job=job)

        return running(client, work)

    # -- one run ---------------------------------------------------------------------------------------------

    async def _mirror(
        self,
        spec: MirrorSpec,
        tell: Tell,
        *,
        dry_run: bool = False,
        scheduled: bool = False,
        job: Job[MirrorDocument] | None = None,
    ) -> MirrorDocument:
        """Mirrors, and publishes the end. Raises as `mirror` says."""
        url = public(spec.url)
        try:
            report = await self._mirrored(spec, tell, dry_run=dry_run, scheduled=scheduled, job=job)
        except ImgstoreError as error:
            self._publish(Mirrored(url, error=error))
            raise
        if not dry_run:
            self._publish(Mirrored(url, len(report["new"]), len(report["failed"])))
        return report

    def _publish(self, event: Mirrored) -> None:
        if self._events is not None:
            self._events.publish(event)

    async def _mirrored(
        self,
        spec: MirrorSpec,
        tell: Tell,
        *,
        dry_run: bool,
        scheduled: bool,
        job: Job[MirrorDocument] | None,
    ) -> MirrorDocument:
        assert self._library is not None
        chosen, incomplete = await self._choose(spec, tell)
        missing = [image for image in chosen if self._library.get(image.manifest.uuid) is None]
        others = [image for image in chosen if self._is_another(image)]
        report: MirrorDocument = {
            "chosen": len(chosen),
            "new": [image.named for image in missing],
            "size": sum(image.size for image in missing),
            "failed": [],
            "released": [],
        }
        if dry_run:
            return report
        kind: Copy = "scheduled" if scheduled else "mirrored"
        failed = await self._fetch(spec, missing, tell, kind)
        report["failed"] = failed + [
            {**image.named, "error": _another(image.manifest.uuid).as_wire()} for image in others
        ]
        lost = {each["uuid"] for each in failed}
        report["new"] = [image.named for image in missing if image.manifest.uuid not in lost]
        for image in chosen:
            if image in others:
                continue
            await lanes.in_thread(self._library.hold, image.manifest.uuid, kind, kind="library")
        if scheduled:
            uuids = frozenset(image.manifest.uuid for image in chosen)
            if not incomplete:
                self._last[spec] = uuids
            elif spec in self._last:
                self._last[spec] |= uuids  # what the list lacks may still be there
            if len(self._last) == len(self._schedules):
                report["released"] = await self._release()
        if spec.to is not None and job is not None:
            await self._copy_on(spec.to, chosen, report, job)
        return report

    def _is_another(self, image: _Chosen) -> bool:
        """True if the library has another file under the image's uuid."""
        assert self._library is not None
        there = self._library.get(image.manifest.uuid)
        ours, theirs = None if there is None else there.manifest.file, image.manifest.file
        if ours is None or theirs is None or None in (ours.sha1, theirs.sha1):
            return False
        return (ours.sha1, ours.size) != (theirs.sha1, theirs.size)

    async def _choose(self, spec: MirrorSpec, tell: Tell) -> tuple[list[_Chosen], bool]:
        """The images that the filter means, each after its origin, and whether the list may lack some."""
        found = await self._sources.available(sources=(spec.url,))
        for problem in found["problems"]:
            # A list of an earlier day would release what is new.
            error = problem["error"]
            raise APIError(error["message"], hint=error["hint"], data=error["data"])
        for lack in found["incomplete"]:
            tell(Note(event="note", text=lack["message"]))
        manifests = [each["manifest"] for each in found["images"]]
        chosen, lacking = await lanes.in_thread(_chosen, manifests, spec.wanted)
        for image in lacking[:_MAX_NOTES]:
            tell(
                Note(
                    event="note",
                    text=f"the origin of image {image.manifest.uuid}, {image.manifest.origin}, is not on the"
                    " server: hosts need another source for it",
                )
            )
        return chosen, bool(found["incomplete"])

    async def _fetch(
        self, spec: MirrorSpec, missing: Sequence[_Chosen], tell: Tell, kind: Copy
    ) -> list[MirrorFailureDocument]:
        """Fetches files, some at a time, as the relay has it. Returns what failed."""
        failed: dict[str, ImgstoreError] = {}
        fetches: dict[str, Fetch] = {}
        done: set[str] = set()
        # A server that is slow, however long, keeps no other one waiting.
        limiter = self._places.setdefault(spec.url, trio.CapacityLimiter(_AT_A_TIME))
        left = iter(missing)

        async def some() -> None:
            for image in left:
                uuid = image.manifest.uuid
                try:
                    async with limiter:
                        await self._fetch_one(spec, uuid, fetches, kind)
                except ImgstoreError as error:
                    log.warning("an image is not mirrored", uuid=uuid, error=error.message)
                    failed[uuid] = error
                done.add(uuid)

        def progress() -> Progress:
            came = sum(
                image.size if image.manifest.uuid in done else fetches[image.manifest.uuid].done
                for image in missing
                if image.manifest.uuid in done or image.manifest.uuid in fetches
            )
            total = sum(image.size for image in missing)
            return Progress(event="progress", done=came, total=total, rate=0.0, images=[])

        async with trio.open_nursery() as nursery:
            for _ in range(_AT_A_TIME):
                nursery.start_soon(some)
            while len(done) < len(missing):
                tell(progress())
                await trio.sleep(_INTERVAL)
        return [
            {**image.named, "error": failed[image.manifest.uuid].as_wire()}
            for image in missing
            if image.manifest.uuid in failed
        ]

    async def _fetch_one(self, spec: MirrorSpec, uuid: str, fetches: dict[str, Fetch], kind: Copy) -> None:
        assert self._relay is not None
        found = await self._sources.find(uuid, active=False, sources=(spec.url,))
        fetch = self._relay.fetch_found(found, kind=kind)
        if fetch is None:
            return  # the library has it by now
        fetches[uuid] = fetch
        await fetch.ended.wait()
        if fetch.failure is not None:
            raise fetch.failure
        if fetch.unkept is not None:
            raise fetch.unkept

    async def _copy_on(
        self, url: str, chosen: Sequence[_Chosen], report: MirrorDocument, job: Job[MirrorDocument]
    ) -> None:
        """Gives a registry all images that were chosen, each after its origin, and that it lacks."""
        assert self._library is not None
        assert self._publisher is not None
        report["copied"] = []
        for image in chosen:
            uuid = image.manifest.uuid
            fd = await lanes.in_thread(self._library.open_file, uuid, kind="library")
            if fd is None:
                continue  # it did not come, which is in the report
            try:
                path = str(self._library.path_of(uuid))
                if await self._publisher.copy_into(url, image.manifest, fd, path, job):
                    report["copied"].append(image.named)
            except ImgstoreError as error:
                log.warning("an image is not copied", uuid=uuid, error=error.message)
                report["failed"].append({**image.named, "error": error.as_wire()})
            finally:
                foreign_files.close(fd)

    # -- what is kept ----------------------------------------------------------------------------------------

    async def _release(self) -> list[str]:
        """Makes files like those of imports of what no schedule chooses any more."""
        assert self._library is not None
        wanted: set[str] = set().union(*self._last.values())
        released = await lanes.in_thread(self._library.release, wanted, kind="library")
        for uuid in released:
            log.info("an image is not mirrored any more", uuid=uuid)
        return released


def _another(uuid: str) -> ImgstoreError:
    return APIError(
        f"the library has another file of image {uuid}",
        hint="a uuid is one file for ever: ask who published the image; or take it out of the library",
    )


def _chosen(documents: Iterable[Mapping[str, Any]], wanted: Filter) -> tuple[list[_Chosen], list[_Chosen]]:
    """As `with_origins`, of the active images that are wanted. For a thread: a list may be very long."""
    images = _loaded(documents)
    active = [image for image in images if image.manifest.state == "active"]
    return with_origins(matching(active, wanted), images)


def _loaded(documents: Iterable[Mapping[str, Any]]) -> list[_Chosen]:
    """Those of the manifests that can be used."""
    found = []
    for document in documents:
        with suppress(ImgstoreError):
            found.append(_Chosen(load(document, rules="import")))
    return found
