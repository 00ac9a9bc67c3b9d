"""Maintenance: updates the manifests of installed images, and finds images that nothing needs."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio
from imgproto.events import (
    Left,
    ManifestUpdated,
    NotInSources,
    OriginalUnknown,
    SnapshotRenamed,
    UpdateFailed,
)

from imgstored import lanes
from imgstored.catalog.catalog import show
from imgstored.errors import (
    ConfigError,
    ImageNotFoundError,
    ImgstoreError,
    NoSourcesError,
    UsageError,
)
from imgstored.http.location import public
from imgstored.maintenance.differences import changed_fields, original_snapshot
from imgstored.maintenance.vacuum import Candidate, Rule, to_delete
from imgstored.manifest import check_uuid
from imgstored.pools.base import Use

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterable,
        Mapping,
        Sequence,
    )

    from imgproto.documents import VacuumDocument
    from imgproto.events import EventDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage, Key, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.refresh import Refresh
    from imgstored.sources.search import Found
    from imgstored.sources.source_set import SourceSet

log = structlog.get_logger(__name__)

#: A dataset without @final, and its snapshots with their guids.
_Unnamed = dict["Key", "Mapping[str, int]"]


class Maintenance:
    """Updates manifests and finds unused images. For trio's thread; blocking calls run in other threads."""

    def __init__(
        self,
        catalog: Catalog,
        sources: SourceSet,
        locks: ImageLocks,
        view: View,
        refresh: Refresh,
        expecting: Callable[[str, str], Sequence[str]],
    ) -> None:
        """`expecting` names the datasets that are about to be cloned from an image (pool, uuid)."""
        self._catalog = catalog
        self._sources = sources
        self._locks = locks
        self._view = view
        self._refresh = refresh
        self._expecting = expecting

    # -- updating manifests ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def update(
        self, uuids: Sequence[str], *, dry_run: bool
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        """Updates the manifests of these images, or of all, from the sources; gives the events.

        If an image has no snapshot @final, the right snapshot gets that name, provided that the source
        identifies it. A failure of one image (`UpdateFailed`) does not stop the others. With `dry_run`
        nothing changes. Raises `UsageError` for images that are not there.
        """
        for uuid in uuids:
            check_uuid(uuid)
        await self._refresh.all()
        unnamed: _Unnamed = {}
        for name in self._catalog.pools:
            unnamed.update(await self._catalog.ask(name, partial(self._unnamed, name, uuids)))
        keys = [(image.pool, image.uuid) for image in self._catalog.all()]
        keys += [key for key in unnamed if key not in keys]
        # Another program is about to write its manifest, unless that was interrupted: only if named.
        keys += [key for key in self._unfinished() if key[1] in uuids]
        if unknown := [uuid for uuid in uuids if uuid not in {uuid for _, uuid in keys}]:
            raise UsageError(f"no installed image with the given UUID(s): {', '.join(unknown)}")
        wanted = [key for key in keys if not uuids or key[1] in uuids]
        async with aclosing(self._update_all(wanted, unnamed, dry_run)) as events:
            yield events

    def _unfinished(self) -> list[Key]:
        return [(name, uuid) for name in self._catalog.pools for uuid in self._catalog.unfinished(name)]

    def _unnamed(self, name: str, uuids: Collection[str]) -> _Unnamed:
        """Datasets without @final that are named, or have a manifest: others may be machines. Blocks."""
        return {
            (name, uuid): snapshots
            for uuid, snapshots in self._catalog.pool(name).unnamed().items()
            if uuid in uuids or self._catalog.installed_at(name, uuid) is not None
        }

    async def _update_all(
        self, keys: Iterable[Key], unnamed: _Unnamed, dry_run: bool
    ) -> AsyncGenerator[EventDocument, None]:
        for pool, uuid in keys:
            events: list[EventDocument] = []
            try:
                found = await self._sources.find(uuid, active=False)
                await self._update(pool, found, unnamed.get((pool, uuid)), dry_run, events)
            except ImageNotFoundError:
                events.append(NotInSources(event="not-in-sources", uuid=uuid))
            except (NoSourcesError, ConfigError):
                raise
            except ImgstoreError as error:
                log.warning("an image cannot be updated", pool=pool, uuid=uuid, error=error.message)
                events.append(
                    UpdateFailed(event="update-failed", uuid=uuid, pool=pool, error=error.as_wire())
                )
            for event in events:
                yield event

    async def _update(
        self,
        pool: str,
        found: Found,
        snapshots: Mapping[str, int] | None,
        dry_run: bool,
        events: list[EventDocument],
    ) -> None:
        uuid = found.manifest.uuid
        async with self._locks.held(uuid):
            known = self._catalog.find(pool, uuid) is not None or (pool, uuid) in self._unfinished()
            if snapshots is None and not known:
                return  # it was deleted meanwhile
            old = await lanes.in_thread(self._catalog.manifest_of, pool, uuid)
            fields = changed_fields(old, found.manifest.document)
            if fields:
                if not dry_run:
                    await self._changed(pool, uuid, lambda: self._write(pool, found))
                events.append(
                    ManifestUpdated(
                        event="manifest-updated",
                        uuid=uuid,
                        pool=pool,
                        source=public(found.source.url),
                        fields=fields if "name" in old else None,
                    )
                )
            if snapshots is None:
                return
            guid = None if found.manifest.file is None else found.manifest.file.dataset_guid
            original = original_snapshot(uuid, snapshots, guid)
            if original is None:
                events.append(OriginalUnknown(event="original-unknown", uuid=uuid, pool=pool))
                return
            if not dry_run:
                await self._changed(pool, uuid, lambda: self._name(pool, uuid, original))
            events.append(SnapshotRenamed(event="snapshot-renamed", uuid=uuid, pool=pool, before=original))

    def _write(self, pool: str, found: Found) -> None:
        manifest = found.manifest
        self._catalog.rewrite_manifest(pool, manifest.uuid, manifest.document, public(found.source.url))

    def _name(self, pool: str, uuid: str, snapshot: str) -> None:
        self._catalog.pool(pool).name_final(uuid, snapshot)

    async def _changed(self, pool: str, uuid: str, change: Callable[[], None]) -> None:
        """Makes a change, and shows its effect to every reader."""
        with trio.CancelScope(shield=True):
            await self._catalog.change(pool, change)
            image = await self._catalog.ask(pool, lambda: self._catalog.look_at(pool, uuid))
            if image is None:
                return  # not an image yet
            self._catalog.add(image)
            await show(self._view, image)

    # -- vacuum ----------------------------------------------------------------------------------------------

    async def vacuum(
        self, *, older_than: int | None, keep: int, tell: Callable[[EventDocument], Awaitable[None]]
    ) -> list[VacuumDocument]:
        """The images that nothing needs, in an order in which each can be deleted; deletes none.

        Leaves out images that were installed within the last `older_than` seconds, the `keep` newest of each
        name, and held images; also images without a manifest, which may be machines: an event names these.
        Raises `PoolError`.
        """
        if keep < 0 or (older_than is not None and older_than < 0):
            raise UsageError("an age and a number of images cannot be less than 0")
        await self._refresh.all()
        uses = {name: await self._catalog.ask(name, pool.uses) for name, pool in self._catalog.pools.items()}
        clones, images = self._catalog.clones(), self._catalog.all()
        dependents = {
            (image.pool, image.uuid): (
                *clones.get((image.pool, image.uuid), ()),
                *self._expecting(image.pool, image.uuid),
            )
            for image in images
        }
        candidates = await lanes.in_thread(self._candidates, images, dependents, uses)
        for each in candidates:
            if each.unknown and not each.held and not each.dependents:
                await tell(Left(event="left", uuid=each.uuid, pool=each.pool, reason="no manifest"))
        before = None if older_than is None else time.time() - older_than
        chosen = to_delete(candidates, Rule(before, keep))
        found = [self._catalog.find(*each.key) for each in chosen]
        return [
            {
                "uuid": image.uuid,
                "zpool": image.pool,
                "name": image.text("name"),
                "version": image.text("version"),
            }
            for image in found
            if image is not None
        ]

    def _candidates(
        self,
        images: Iterable[InstalledImage],
        dependents: Mapping[Key, Iterable[str]],
        uses: Mapping[str, Mapping[str, Use]],
    ) -> list[Candidate]:
        """The images, with the times of their installation. Blocks."""
        return [
            self._candidate(
                image, dependents[image.pool, image.uuid], uses[image.pool].get(image.uuid, Use())
            )
            for image in images
        ]

    def _candidate(self, image: InstalledImage, dependents: Iterable[str], use: Use) -> Candidate:
        return Candidate(
            pool=image.pool,
            uuid=image.uuid,
            name=image.text("name"),
            published_at=image.text("published_at"),
            installed_at=self._catalog.installed_at(image.pool, image.uuid),
            dependents=frozenset((*dependents, *use.dependents)),
            held=use.held,
            unknown="name" not in image.manifest,
        )
