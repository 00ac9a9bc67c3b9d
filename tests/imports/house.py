"""Imports and images with a real pool, a real journal and a real web server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.deletions import Deletions
from imgstored.catalog.holds import Holds
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.images import Images
from imgstored.catalog.refresh import Refresh
from imgstored.errors import PoolNotFoundError
from imgstored.events.stream import EventStream, Requester
from imgstored.imports.journal import Journal
from imgstored.imports.manager import ImportManager
from imgstored.imports.resources import Resources
from imgstored.pools.embedded import EmbeddedPool
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.image_site import ImageSite
from tests.support.limits import import_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.events.stream import Listener
    from imgstored.imports.resources import ImportLimits
    from imgstored.manifest.platform import Platform
    from tests.support.nginx import Nginx

TESTER = Requester("test", 1000)


class RememberingView:
    """A view that only knows what it was told; `broken` refuses everything."""

    def __init__(self) -> None:
        self.shown: set[str] = set()
        self.broken = False

    async def add(self, image: InstalledImage) -> None:
        if self.broken:
            raise PoolNotFoundError("the view is broken")
        self.shown.add(image.uuid)

    async def remove(self, image: InstalledImage) -> None:
        self.shown.discard(image.uuid)


@dataclass
class House:
    """Running imports, and what they stand on."""

    images: Images
    imports: ImportManager
    resources: Resources
    sources: SourceSet
    refresh: Refresh
    events: EventStream
    pool: EmbeddedPool
    catalog: Catalog
    view: RememberingView
    journal: Journal
    spools: Path

    def left(self) -> list[str]:
        """What is neither an installed image nor needed for one."""
        spools = [path.name for path in self.spools.iterdir()]
        return spools + self.pool.partials() + [each.spec.uuid for each in self.journal.imports()]

    async def all_events(self, *uuids: str, **settings: Any) -> list[object]:
        async with self.imports.request(uuids, requester=TESTER, **settings) as request:
            return [event async for event in request]

    async def delete(self, uuid: str, pool: str | None = None) -> None:
        await self.images.delete(uuid, pool, TESTER)


@pytest.fixture
def pages(site: Path) -> ImageSite:
    pages = ImageSite(site)
    pages.add_fixtures()
    return pages


@pytest.fixture
def open_house(tmp_path: Path, nginx: Nginx, pages: ImageSite):
    """Opens a house; several times one after another on the same state."""

    @asynccontextmanager
    async def opened(
        *,
        limits: ImportLimits | None = None,
        platform: Platform | None = None,
        kind: type[EmbeddedPool] = EmbeddedPool,
        every: float = 1000.0,
        heard: Listener | None = None,
    ):
        folder = tmp_path / "state"
        spools = folder / "spool"
        spools.mkdir(parents=True, exist_ok=True)
        pool = kind("zones", folder / "pool")
        catalog = Catalog({"zones": pool}, folder / "imgadm" / "images")
        catalog.load()
        journal = Journal(folder / "journal.sqlite")
        view = RememberingView()
        locks = ImageLocks(folder / "locks")
        events = EventStream()
        if heard is not None:
            events.subscribe(heard)
        source_set = SourceSet(
            [SourceSpec(nginx.url, "static")],
            imgadm_conf=folder / "imgadm" / "imgadm.conf",
            lists=folder / "lists",
        )
        refresh = Refresh(catalog, view, every=every)
        deletions = Deletions(catalog, locks, view, events)
        resources = Resources(catalog, journal, spools, view, locks, limits or import_limits())
        imports = ImportManager(resources, source_set, refresh, deletions, events, platform)
        images = Images(catalog, refresh, deletions, Holds(catalog, events), imports.cloned_from)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(images.run)
                await nursery.start(imports.run)
                yield House(
                    images,
                    imports,
                    resources,
                    source_set,
                    refresh,
                    events,
                    pool,
                    catalog,
                    view,
                    journal,
                    spools,
                )
                imports.stop()
                nursery.cancel_scope.cancel()
        finally:
            journal.close()
            pool.close()

    return opened


def receiving(then: Callable[[], object]) -> Callable[..., Any]:
    """An `EmbeddedPool.receive` that calls `then` after each block, in the thread that receives."""
    whole = EmbeddedPool.receive

    def receive(self: EmbeddedPool, uuid: str, blocks: Iterable[Any], **settings: Any) -> Any:
        def pieces() -> Iterator[Any]:
            for block in blocks:
                yield block
                then()

        return whole(self, uuid, pieces(), **settings)

    return receive


async def until(condition) -> None:
    """Waits for it, up to ten seconds."""
    for _ in range(500):
        if condition():
            return
        await trio.sleep(0.02)
    raise AssertionError("it never happened")
