"""A daemon without a socket: the real manager, imports, transfer, catalog and journal on one folder.

Its network is in memory, and its pool, an embedded one, takes its time and fails by the seed.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import trio

from imgstored import lanes
from imgstored.catalog.catalog import Catalog
from imgstored.catalog.deletions import Deletions
from imgstored.catalog.holds import Holds
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.images import Images
from imgstored.catalog.receipts import Receipts
from imgstored.catalog.refresh import Refresh
from imgstored.errors import NoSpaceError, PoolError
from imgstored.events.stream import EventStream
from imgstored.imports.journal import Journal
from imgstored.imports.manager import ImportManager
from imgstored.imports.resources import Resources
from imgstored.pools.base import BOUNDLESS
from imgstored.pools.embedded import EmbeddedPool
from imgstored.sources.source_set import SourceSet
from tests.proofs.schedules.network import NETWORK
from tests.proofs.schedules.turns import TURNS, in_thread, pause
from tests.support.limits import download_limits, import_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.events.stream import Listener
    from imgstored.pools.base import Blocks, PoolImage, Room
    from imgstored.sources.base import SourceSpec

T = TypeVar("T")

#: Seconds that a pool does not answer, when it does not.
_HANGS = (5.0, 40.0, 200.0)


@dataclass
class Trouble:
    """How often a pool's calls fail, and do not answer."""

    fails: float = 0.0
    hangs: float = 0.0


class SlowPool(EmbeddedPool):
    """An embedded pool of which each call takes its time, and may fail before it has done anything."""

    def __init__(self, folder: Path, trouble: Trouble) -> None:
        super().__init__("zones", folder)
        self._trouble = trouble

    def _slowly(self, what: str, call: Callable[[], T]) -> T:
        dice, trouble = TURNS.dice, self._trouble
        if not in_thread():
            return call()  # when it starts
        pause(TURNS.moment())
        if dice.random() < trouble.hangs:
            pause(dice.choice(_HANGS))
        if dice.random() < trouble.fails:
            raise PoolError(f"{what}: the disk fails")
        result = call()
        pause(TURNS.moment())
        return result

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        return self._slowly("images", lambda: super(SlowPool, self).images(known))

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        def slowly() -> Iterator[bytes | bytearray | memoryview]:
            for block in blocks:
                if TURNS.dice.random() < self._trouble.fails:
                    raise TURNS.dice.choice((PoolError, NoSpaceError))("receive: the disk fails")
                pause(TURNS.moment())
                yield block

        receive = super().receive
        return self._slowly("receive", lambda: receive(uuid, slowly(), origin=origin, room=room))

    def publish(self, uuid: str) -> PoolImage:
        return self._slowly("publish", lambda: super(SlowPool, self).publish(uuid))

    def abandon(self, uuid: str) -> None:
        self._slowly("abandon", lambda: super(SlowPool, self).abandon(uuid))

    def destroy(self, uuid: str) -> None:
        self._slowly("destroy", lambda: super(SlowPool, self).destroy(uuid))

    def hold(self, uuid: str, tag: str) -> None:
        self._slowly("hold", lambda: super(SlowPool, self).hold(uuid, tag))

    def release(self, uuid: str, tag: str) -> None:
        self._slowly("release", lambda: super(SlowPool, self).release(uuid, tag))


class Shown:
    """A view that takes its time."""

    def __init__(self) -> None:
        self.uuids: set[str] = set()

    async def add(self, image: InstalledImage) -> None:
        await lanes.in_thread(self.uuids.add, image.uuid)

    async def remove(self, image: InstalledImage) -> None:
        await lanes.in_thread(self.uuids.discard, image.uuid)


@dataclass
class House:
    """A running daemon."""

    folder: Path
    pool: SlowPool
    catalog: Catalog
    journal: Journal
    view: Shown
    resources: Resources
    imports: ImportManager
    images: Images
    events: EventStream
    nursery: trio.Nursery = field(repr=False)

    def files(self, name: str) -> list[str]:
        """The names in one of its folders."""
        return sorted(path.name for path in (self.folder / name).iterdir())

    def copy(self, to: Path) -> None:
        """What a daemon finds that starts after this one was killed at this moment."""
        shutil.copytree(self.folder, to)


@asynccontextmanager
async def opened(
    folder: Path, specs: Sequence[SourceSpec], trouble: Trouble, heard: Listener, connections: int, slots: int
) -> AsyncIterator[House]:
    """Starts a daemon, and stops it behind the block."""
    spools = folder / "spool"
    spools.mkdir(parents=True, exist_ok=True)
    pool = SlowPool(folder / "pool", trouble)
    receipts = Receipts(folder / "receipts")
    catalog = Catalog({"zones": pool}, folder / "images", receipts)
    catalog.load()
    journal = Journal(folder / "journal.sqlite")
    view, events = Shown(), EventStream()
    for image in catalog.all():
        view.uuids.add(image.uuid)
    locks = ImageLocks(folder / "locks")
    events.subscribe(heard)
    sources = SourceSet(
        specs, imgadm_conf=folder / "imgadm.conf", lists=folder / "lists", open_source=NETWORK.open_source
    )
    refresh = Refresh(catalog, view, every=1000.0)
    deletions = Deletions(catalog, locks, view, events, receipts=receipts)
    download = download_limits(connections=connections, silence_seconds=8.0, tries=3, min_rate=0)
    limits = import_limits(imports=slots, download=download, min_free=0)
    resources = Resources(catalog, journal, spools, view, locks, limits, receipts=receipts)
    imports = ImportManager(resources, sources, refresh, deletions, events)
    images = Images(catalog, refresh, deletions, Holds(catalog, events), imports.cloned_from)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(images.run)
            await nursery.start(imports.run)
            yield House(folder, pool, catalog, journal, view, resources, imports, images, events, nursery)
            imports.stop()
            nursery.cancel_scope.cancel()
    finally:
        journal.close()
        pool.close()
