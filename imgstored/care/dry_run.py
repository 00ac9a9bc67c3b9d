"""What an import would do: which images, from where, how big, whether they fit, and what would refuse it.

Changes nothing, and starts nothing: the sources are asked, and everything else is only looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from imgstored.errors import (
    ActiveImageNotFoundError,
    ImgstoreError,
    InvalidManifestError,
    NoSpaceError,
)
from imgstored.http.location import shown
from imgstored.manifest import check_uuid
from imgstored.manifest.platform import Platform, check_platform
from imgstored.pools.patience import answer
from imgstored.store.ancestry import MAX_ANCESTRY, Wish
from imgstored.store.leftovers import spool_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproto.documents import JobDocument, PlanDocument, PlannedDocument, RoomDocument

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.refresh import Refresh
    from imgstored.pools.base import Pool
    from imgstored.sources.registry import Found
    from imgstored.sources.sourcebook import SourceBook
    from imgstored.store.journal import Journal
    from imgstored.store.room import Room


@dataclass(slots=True)
class _Step:
    """One image of the ancestry. Sizes in compressed bytes."""

    uuid: str
    state: Literal["installed", "under-way", "missing"]
    name: str = "-"
    version: str = "-"
    origin: str | None = None
    source: str | None = None
    size: int | None = None
    present: int = 0  #: of an earlier try

    def as_wire(self) -> PlannedDocument:
        return {
            "uuid": self.uuid,
            "name": self.name,
            "version": self.version,
            "state": self.state,
            "origin": self.origin,
            "source": self.source,
            "size": self.size,
            "present": self.present,
        }


@dataclass(slots=True)
class _Plan:
    """What was found out so far."""

    steps: list[_Step] = field(default_factory=list)
    refusals: list[ImgstoreError] = field(default_factory=list)


class DryRun:
    """Answers `plan`. Used from trio's thread."""

    def __init__(
        self,
        catalog: Catalog,
        refresh: Refresh,
        sources: SourceBook,
        journal: Journal,
        room: Callable[[], Room],
        jobs: Callable[[], list[JobDocument]],
        platform: Platform | None = None,
    ) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._sources = sources
        self._journal = journal
        self._room = room
        self._jobs = jobs
        self._platform = platform
        # A pool that does not answer keeps whoever asks it in the kernel.
        self._threads = trio.CapacityLimiter(4)

    async def plan(
        self,
        uuid: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> PlanDocument:
        """The protocol's *plan* for an image, with its errors in `refusals`.

        Raises `ImageNotFoundError` and its kind where no source has the image, and what keeps us from finding
        that out.
        """
        check_uuid(uuid)
        target = self._catalog.pool(pool)
        await self._refresh.pool(target.name)
        wish = Wish(uuid, target.name, None if sources is None else tuple(sources), channel)
        plan = _Plan()
        await self._gather(wish, plan)
        missing = [step for step in plan.steps if step.state == "missing"]
        for step in missing:
            step.present = await trio.to_thread.run_sync(self._present, target.name, step)
        sizes = [step.size for step in missing]
        size = None if None in sizes else sum(each or 0 for each in sizes)
        to_come = max(0, sum(each or 0 for each in sizes) - sum(step.present for step in missing))
        room = await self._look_for_room(plan, target, to_come, sum(each or 0 for each in sizes))
        return {
            "uuid": uuid,
            "pool": target.name,
            "images": [step.as_wire() for step in plan.steps],
            "count": len(missing),
            "size": size,
            "to_come": to_come,
            "room": room,
            "refusals": [error.as_wire() for error in plan.refusals],
        }

    # -- which images ----------------------------------------------------------------------------------------

    async def _gather(self, wish: Wish, plan: _Plan) -> None:
        """The image, and its ancestors down to the first that is there."""
        under_way = {job["uuid"]: job for job in self._jobs() if job["pool"] == wish.pool}
        wanted: str | None = wish.uuid
        while wanted is not None:
            installed = self._catalog.find(wish.pool, wanted)
            if installed is not None:
                name, version = installed.text("name"), installed.text("version")
                plan.steps.append(
                    _Step(wanted, "installed", name, version, installed.origin, installed.source)
                )
                return
            if (job := under_way.get(wanted)) is not None:
                step = _Step(
                    wanted, "under-way", job["name"], job["version"], None, job["source"], job["total"]
                )
                step.present = job["done"]
                plan.steps.append(step)
                return
            if len(plan.steps) >= MAX_ANCESTRY or any(step.uuid == wanted for step in plan.steps):
                plan.refusals.append(_endless(wish.uuid, wanted))
                return
            found = await self._find(wish, wanted, plan)
            if found is None:
                return
            plan.steps.append(_step(found))
            wanted = found.manifest.origin

    async def _find(self, wish: Wish, uuid: str, plan: _Plan) -> Found | None:
        """An image as an import would find it; None for an origin that it would not find."""
        find = partial(self._sources.find, uuid, sources=wish.sources, channel=wish.channel)
        try:
            found = await find(active=uuid == wish.uuid)
        except ActiveImageNotFoundError as inactive:
            # It may be there in another state: what is known of it is said all the same.
            try:
                found = await find(active=False)
            except ImgstoreError:
                raise inactive from None
            plan.refusals.append(inactive)
        except ImgstoreError as error:
            if uuid == wish.uuid:
                raise
            plan.refusals.append(error)
            return None
        try:
            check_platform(found.manifest, self._platform)
        except ImgstoreError as error:
            plan.refusals.append(error)
        return found

    # -- whether they fit ------------------------------------------------------------------------------------

    def _present(self, pool: str, step: _Step) -> int:
        """Bytes that an earlier try has left, and that are still to be checked."""
        spooled = self._journal.ranges(spool_name(pool, step.uuid)).load()
        if spooled is None or step.size not in (None, spooled.size):
            return 0
        ends = ((index + 1) * spooled.range_size for index in spooled.digests)
        return sum(min(end, spooled.size) - (end - spooled.range_size) for end in ends)

    async def _look_for_room(self, plan: _Plan, pool: Pool, to_come: int, at_least: int) -> RoomDocument:
        """Free bytes in the spool and in the pool. What is short is a refusal. Raises `PoolError`.

        How much an image takes in a pool shows only while it is received: not less than its file, mostly.
        """
        room = self._room()

        def look() -> RoomDocument:
            questions = (partial(room.for_download, to_come), partial(room.for_stream, pool, at_least))
            for question in questions if at_least else ():
                try:
                    question()
                except NoSpaceError as error:
                    plan.refusals.append(error)
            return {"spool": room.free(), "pool": pool.space().available}

        return await answer(pool.name, look, threads=self._threads)


def _step(found: Found) -> _Step:
    manifest = found.manifest
    return _Step(
        manifest.uuid,
        "missing",
        manifest.name,
        manifest.version,
        manifest.origin,
        shown(found.source.url),
        None if manifest.file is None else manifest.file.size,
    )


def _endless(uuid: str, origin: str) -> InvalidManifestError:
    return InvalidManifestError(
        f'image "{uuid}" has an endless ancestry at origin "{origin}"',
        hint="the manifests of the sources are wrong; tell whoever runs them",
    )
