"""A dry run: the images that an import would bring, their sources and sizes, and reasons to refuse it.

Renders the same plan that an import executes. It starts and changes nothing: it asks the sources, and reads
the rest.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imgstored import lanes
from imgstored.errors import ActiveImageNotFoundError, ImgstoreError, NoSpaceError
from imgstored.http.location import shown
from imgstored.imports.delta import Deltas, delta_document
from imgstored.imports.leftovers import spool_name
from imgstored.imports.spec import ImportSpec
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.documents import DeltaDocument, PlanDocument, PlannedDocument, RoomDocument

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.refresh import Refresh
    from imgstored.imports.manager import ImportManager
    from imgstored.imports.plan import Plan, Step
    from imgstored.imports.resources import Resources
    from imgstored.pools.base import Pool
    from imgstored.sources.search import Found
    from imgstored.sources.source_set import SourceSet


class DryRun:
    """Answers `plan`. For trio's thread."""

    def __init__(
        self,
        catalog: Catalog,
        refresh: Refresh,
        sources: SourceSet,
        imports: ImportManager,
        resources: Resources,
    ) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._sources = sources
        self._imports = imports
        self._resources = resources

    async def plan(
        self,
        uuid: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> PlanDocument:
        """The protocol's *plan* for an image, with its errors in `refusals`.

        Raises `ImageNotFoundError` or `ActiveImageNotFoundError` if no source has the image, and the errors
        of the search.
        """
        check_uuid(uuid)
        target = self._catalog.pool(pool)
        await self._refresh.pool(target.name)
        replaced = self._sources.containers.place(uuid) if sources is None else tuple(sources)
        spec = ImportSpec(uuid, target.name, replaced, channel)
        plan = self._imports.plan(spec)
        images = await self._images(plan)
        missing = [image for image in images if image["state"] == "missing"]
        for image in missing:
            image["present"] = await lanes.in_thread(self._present, target.name, image)
        for step, image in zip(plan.steps, images, strict=True):
            if step.found is not None:
                image["delta"] = await self._delta(spec, step.found)
        sizes = [image["size"] for image in missing]
        known = sum(size or 0 for size in sizes)
        to_come = max(0, known - sum(image["present"] for image in missing))
        room = await self._free_space(plan, target, to_come, known)
        return {
            "uuid": uuid,
            "pool": target.name,
            "images": images,
            "count": len(missing),
            "size": None if None in sizes else known,
            "to_come": to_come,
            "room": room,
            "refusals": [error.as_wire() for error in plan.refusals],
            "warnings": await self._warnings(plan, target),
        }

    # -- which images ----------------------------------------------------------------------------------------

    async def _images(self, plan: Plan) -> list[PlannedDocument]:
        """Fills in the plan; the image and its ancestors as the protocol has them."""
        try:
            while (uuid := plan.next()) is not None:
                plan.add(await self._find(plan, uuid))
        except ImgstoreError as error:
            if not plan.steps:
                raise
            # An ancestor that an import would not find.
            plan.refusals.append(error)
        return [self._rendered(plan.spec.pool, step) for step in plan.steps]

    async def _find(self, plan: Plan, uuid: str) -> Found:
        """An image as an import would find it. An inactive one is refused, but still in the plan."""
        find = partial(
            self._sources.find, uuid, sources=plan.spec.sources, channel=plan.spec.channel, copies=True
        )
        try:
            return await find(active=uuid == plan.spec.uuid)
        except ActiveImageNotFoundError as inactive:
            try:
                found = await find(active=False)
            except ImgstoreError:
                raise inactive from None
            plan.refusals.append(inactive)
            return found

    def _rendered(self, pool: str, step: Step) -> PlannedDocument:
        if step.found is not None:
            manifest = step.found.manifest
            size = None if manifest.file is None else manifest.file.size
            source = shown(step.found.source.url)
            return _image(
                step, manifest.name, manifest.version, origin=manifest.origin, source=source, size=size
            )
        if (installed := self._catalog.find(pool, step.uuid)) is not None:
            name, version = installed.text("name"), installed.text("version")
            return _image(step, name, version, origin=installed.origin, source=installed.source)
        job = next(job for job in self._imports.jobs() if (job["pool"], job["uuid"]) == (pool, step.uuid))
        return _image(
            step, job["name"], job["version"], source=job["source"], size=job["total"], present=job["done"]
        )

    # -- whether they fit ------------------------------------------------------------------------------------

    def _present(self, pool: str, image: PlannedDocument) -> int:
        """Bytes that an earlier try has left; the import still has to check them."""
        library = self._resources.library
        kept = None if library is None else library.get(image["uuid"])
        if kept is not None and kept.size == image["size"]:
            return kept.size  # an import takes it from there
        spooled = self._resources.journal.ranges(spool_name(pool, image["uuid"])).load()
        if spooled is None or image["size"] not in (None, spooled.size):
            return 0
        ends = ((index + 1) * spooled.range_size for index in spooled.comparable())
        return sum(min(end, spooled.size) - (end - spooled.range_size) for end in ends)

    async def _delta(self, spec: ImportSpec, found: Found) -> DeltaDocument | None:
        """The installed image that has a part of the file. Only an import finds out how much."""
        if not found.locations:
            return None
        basis = await Deltas(spec.of(found.manifest.uuid), found.manifest, self._resources).basis(
            found.locations
        )
        return None if basis is None else delta_document(basis)

    async def _warnings(self, plan: Plan, pool: Pool) -> list[str]:
        """Warnings that images may not fit, as in the notes of an import. Raises `PoolError`."""
        manifests = [step.found.manifest for step in plan.steps if step.found is not None]

        def look() -> list[str]:
            warnings = (self._resources.free_space.warning(pool, manifest) for manifest in manifests)
            return [each for each in warnings if each is not None]

        return await self._catalog.ask(pool.name, look)

    async def _free_space(self, plan: Plan, pool: Pool, to_come: int, at_least: int) -> RoomDocument:
        """Free bytes in the spool and in the pool. A shortage is a refusal. Raises `PoolError`.

        The size of an image in a pool shows only during the receive: usually at least that of its file, and
        at least what an earlier try took.
        """
        free_space, journal = self._resources.free_space, self._resources.journal

        def look() -> RoomDocument:
            needed = sum(
                journal.needed(pool.name, step.uuid) for step in plan.steps if step.state == "missing"
            )
            checks = (
                partial(free_space.check_spool, to_come),
                partial(free_space.check_pool, pool, max(at_least, needed)),
            )
            for check in checks if at_least or needed else ():
                try:
                    check()
                except NoSpaceError as error:
                    plan.refusals.append(error)
            return {"spool": free_space.free(), "pool": pool.space().available}

        return await self._catalog.ask(pool.name, look)


def _image(
    step: Step,
    name: str,
    version: str,
    *,
    origin: str | None = None,
    source: str | None = None,
    size: int | None = None,
    present: int = 0,
) -> PlannedDocument:
    """One image of the protocol's *plan*. Sizes in compressed bytes."""
    return {
        "uuid": step.uuid,
        "name": name,
        "version": version,
        "state": "installed" if step.state == "deleting" else step.state,
        "origin": origin,
        "source": source,
        "size": size,
        "present": present,
        "delta": None,
    }
