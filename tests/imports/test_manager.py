"""The store with a real pool, a real journal and a real web server: what clients ask for at the same time."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.images import MAX_WISHES, Store
from imgstored.catalog.refresh import Refresh
from imgstored.errors import (
    CancelledError,
    ImageHasDependentClonesError,
    ImageHeldError,
    ImageNotInstalledError,
    ImgstoreError,
    InternalError,
    InvalidUUIDError,
    MinPlatformError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolNotFoundError,
    ResumeError,
    UsageError,
)
from imgstored.events.notifications import (
    AlreadyInstalled,
    Downloaded,
    Held,
    Importing,
    Installed,
    Installing,
    Note,
    Planned,
)
from imgstored.imports.installer import Installer, InstallLimits
from imgstored.imports.journal import Journal
from imgstored.manifest.platform import Platform
from imgstored.pools.embedded import EmbeddedPool
from imgstored.sources.base import SourceSpec
from imgstored.sources.sourcebook import SourceBook
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_file, fixture_manifest
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from tests.support.nginx import Nginx


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
    """A running store and what it stands on."""

    store: Store
    pool: EmbeddedPool
    catalog: Catalog
    view: RememberingView
    journal: Journal
    spools: Path

    def left(self) -> list[str]:
        """What is neither an installed image nor needed for one."""
        spools = [path.name for path in self.spools.iterdir()]
        return spools + self.pool.partials() + [each.uuid for each in self.journal.imports()]

    async def all_events(self, *uuids: str, client: str = "test", **settings: Any) -> list[object]:
        async with self.store.request(uuids, client=client, **settings) as request:
            return [event async for event in request]


@pytest.fixture
def pages(site: Path) -> ImageSite:
    pages = ImageSite(site)
    pages.add_fixtures()
    return pages


@pytest.fixture
def open_house(tmp_path: Path, nginx: Nginx, pages: ImageSite):
    """Opens the store; several times one after another on the same state."""

    @asynccontextmanager
    async def opened(
        *,
        limits: InstallLimits | None = None,
        platform: Platform | None = None,
        kind: type[EmbeddedPool] = EmbeddedPool,
        every: float = 1000.0,
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
        installer = Installer(catalog, journal, spools, view, locks, limits or InstallLimits())
        book = SourceBook(
            [SourceSpec(nginx.url, "static")],
            imgadm_conf=folder / "imgadm" / "imgadm.conf",
            lists=folder / "lists",
        )
        store = Store(catalog, book, installer, Refresh(catalog, view, every=every), platform)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(store.run)
                yield House(store, pool, catalog, view, journal, spools)
                store.stop()
                nursery.cancel_scope.cancel()
        finally:
            journal.close()
            pool.close()

    return opened


async def until(condition) -> None:
    """Waits for it, up to ten seconds."""
    for _ in range(500):
        if condition():
            return
        await trio.sleep(0.02)
    raise AssertionError("it never happened")


async def test_an_import_tells_its_story_and_leaves_nothing_else(open_house, nginx):
    async with open_house() as house:
        events = [event for event in await house.all_events(INCREMENTAL) if event.kind != "progress"]
        assert events[0] == Importing(INCREMENTAL, "incremental", "1.0.0", nginx.url)
        assert Planned(2, 1_851_100 + 537_128) in events
        assert {Downloaded(BASE, 1_851_100), Downloaded(INCREMENTAL, 537_128)} < set(events)
        assert events[-1] == Installed(INCREMENTAL, "incremental", "1.0.0")
        assert events.index(Installed(BASE, "base", "1.0.0")) < len(events) - 1
        assert house.view.shown == {BASE, INCREMENTAL}
        assert house.left() == []
        assert (await house.store.image(BASE, None, recursive=True))["children"] == {
            "snapshots": [f"zones/{BASE}@final"],
            "clones": [f"zones/{INCREMENTAL}"],
        }
        assert await house.all_events(BASE) == [AlreadyInstalled(BASE, "base", "1.0.0")]


class DoubtfulPool(EmbeddedPool):
    """Goes on with a receive, and finds at its end that it cannot, as only a kernel may."""

    refusals = 1

    def receive(self, uuid, blocks, *, origin=None):
        image = super().receive(uuid, blocks, origin=origin)
        if self.refusals:
            self.refusals -= 1
            self.abandon(uuid)
            raise ResumeError("the kernel refused to go on")
        return image


async def test_what_a_pool_cannot_go_on_with_is_received_again_and_not_downloaded_again(open_house, nginx):
    async with open_house(kind=DoubtfulPool) as house:
        events = await house.all_events(ZVOL)
        notes = [event.text for event in events if isinstance(event, Note)]
        assert notes == ["the kernel refused to go on; receiving it from the beginning"]
        assert house.pool.image(ZVOL) is not None
        assert house.left() == []
    gets = [hit for hit in nginx.settled_hits() if hit.path == f"/{ZVOL}/file"]
    assert sum(hit.bytes_sent for hit in gets) < 1.1 * fixture_file(ZVOL).stat().st_size


async def test_two_imports_share_the_origin_that_neither_has(open_house, nginx, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    pages.add(fixture_manifest(INCREMENTAL) | {"uuid": other}, fixture_file(INCREMENTAL))
    async with open_house() as house, trio.open_nursery() as nursery:
        nursery.start_soon(house.all_events, INCREMENTAL)
        nursery.start_soon(house.all_events, other)
    assert sum(hit.path == f"/{BASE}/file" for hit in nginx.settled_hits()) <= 2
    async with open_house() as house:
        assert {image.uuid for image in house.catalog.all()} == {BASE, INCREMENTAL, other}


async def test_the_last_who_leaves_ends_the_import(open_house, monkeypatch):
    received, cancelled = trio.Event(), threading.Event()
    whole = EmbeddedPool.receive

    def receive(self, uuid, blocks, *, origin=None):
        """Receives a part, and then waits for the import to be cancelled."""

        def slowly():
            for block in blocks:
                yield block
                trio.from_thread.run_sync(received.set)
                cancelled.wait(10)

        return whole(self, uuid, slowly(), origin=origin)

    monkeypatch.setattr(EmbeddedPool, "receive", receive)
    async with open_house() as house:
        async with house.store.request([BASE], client="first"):
            async with house.store.request([BASE], client="second"):
                await received.wait()
                assert sorted(house.store.jobs()[0]["clients"]) == ["first", "second"]
            assert house.store.jobs()[0]["clients"] == ["first"]
            assert house.pool.partials() == [BASE]
        cancelled.set()
        await until(lambda: not house.store.jobs())
        assert house.pool.partials() == []
        assert [each.wanted for each in house.journal.imports()] == [False]


async def test_an_image_is_not_deleted_under_one_that_is_being_cloned_from_it(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        async with house.store.request([INCREMENTAL], client="test") as request:
            async for event in request:
                if isinstance(event, Planned):
                    with pytest.raises(ImageHasDependentClonesError, match=f"zones/{INCREMENTAL}"):
                        await house.store.delete(BASE, None)
        with pytest.raises(ImageHasDependentClonesError):
            await house.store.delete(BASE, None)
        await house.store.delete(INCREMENTAL, None)
        await house.store.delete(BASE, "zones")
        assert house.view.shown == set()
        with pytest.raises(ImageNotInstalledError):
            await house.store.delete(BASE, None)


async def test_a_view_that_is_broken_does_not_undo_an_import(open_house):
    async with open_house() as house:
        house.view.broken = True
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)
        assert house.left() == []


@pytest.mark.parametrize("step", ["write_manifest", "publish", "receive"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [(NoSpaceError("full"), NoSpaceError), (ZeroDivisionError("mistake"), InternalError)],
    ids=["error", "mistake"],
)
async def test_a_step_that_fails_ends_one_import_and_nothing_else(open_house, monkeypatch, step, fault, told):
    def fail(*_: object, **__: object) -> None:
        raise fault

    async with open_house() as house:
        owner = Catalog if step == "write_manifest" else EmbeddedPool
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, fail)
            with pytest.raises(told):
                await house.all_events(BASE)
        assert house.pool.partials() == []
        assert await house.store.installed() == []
        assert house.view.shown == set()
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)
        assert house.left() == []


async def test_no_room_is_said_before_anything_is_fetched(open_house, nginx):
    async with open_house(limits=InstallLimits(min_free=1 << 60)) as house:
        with pytest.raises(NoSpaceError, match="not enough room"):
            await house.all_events(BASE)
        assert house.left() == []
    assert not any(hit.path.endswith("/file") for hit in nginx.settled_hits())


async def test_a_platform_that_is_too_old_is_told(open_house, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    requirements = {"min_platform": {"7.0": "20300101T000000Z"}}
    pages.add(fixture_manifest(BASE) | {"uuid": other, "requirements": requirements}, fixture_file(BASE))
    async with open_house(platform=Platform("7.0", "20200101T000000Z")) as house:
        with pytest.raises(MinPlatformError):
            await house.all_events(other)


async def test_a_file_is_installed_also_when_its_client_has_closed_it(open_house):
    async with open_house() as house:
        fd = os.open(fixture_file(ZVOL), os.O_RDONLY)
        async with house.store.install(fixture_manifest(ZVOL), fd, client="test", path="zvol.bz2") as request:
            assert await anext(request) == Installing(ZVOL, "zvol", "1.0.0")
            os.close(fd)
            assert Installed(ZVOL, "zvol", "1.0.0", from_file=True) in [event async for event in request]
        assert house.left() == []


async def test_a_file_whose_origin_is_not_there_is_refused(open_house):
    async with open_house() as house:
        with fixture_file(INCREMENTAL).open("rb") as file:
            asked = house.store.install(fixture_manifest(INCREMENTAL), file.fileno(), client="test")
            async with asked as request:
                with pytest.raises(OriginNotInstalledError, match=BASE):
                    await anext(request)
        assert house.left() == []


async def test_an_unfinished_import_goes_on_with_the_next_store(open_house):
    async with open_house() as house:
        house.journal.begin("zones", BASE, fixture_manifest(BASE), None, None)
    async with open_house() as house:
        await until(lambda: house.catalog.all() and not house.left())


async def test_an_unfinished_import_of_a_stream_goes_on_as_one(open_house, pages):
    """The server makes the file when it is asked: its manifest knows neither its size nor its checksum."""
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    manifest = fixture_manifest(BASE) | {"uuid": other}
    pages.add(manifest, filesystem_stream(size=200_000, seed=1))
    async with open_house() as house:
        house.journal.begin("zones", other, manifest, None, None, zstream=True)
        house.journal.begin("zones", BASE, fixture_manifest(BASE), None, None)
    async with open_house() as house:
        await until(lambda: len(house.catalog.all()) == 2 and not house.left())


async def test_a_held_image_is_not_deleted(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        await house.store.hold(BASE, "web", None)
        await house.store.hold(BASE, "web", None)
        with pytest.raises(UsageError, match="those of clients"):
            await house.store.hold(BASE, "client:me", None)
        with pytest.raises(ImageHeldError, match=f'image "{BASE}" is held: web'):
            await house.store.delete(BASE, None)
    async with open_house() as house:
        assert await house.store.holds(BASE, None) == ["web"]
        await house.store.release(BASE, "web", None)
        await house.store.release(BASE, "web", None)
        await house.store.delete(BASE, None)
        with pytest.raises(ImageNotInstalledError):
            await house.store.holds(BASE, None)


async def test_a_clients_hold_ends_with_it_and_with_a_daemon_that_was_killed(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        async with house.store.holding(BASE, None, client="vm") as request:
            held = await anext(request)
            assert isinstance(held, Held)
            assert await house.store.holds(BASE, None) == [held.tag]
            with pytest.raises(ImageHeldError, match="vm"):
                await house.store.delete(BASE, None)
        assert await house.store.holds(BASE, None) == []
        # As a killed daemon leaves it.
        house.pool.hold(BASE, held.tag)
    async with open_house() as house:
        assert await house.store.holds(BASE, None) == []


async def test_a_stopping_store_takes_nothing_new(open_house):
    async with open_house() as house:
        house.store.stop()
        with pytest.raises(CancelledError, match="stopping"):
            await house.all_events(BASE)


@pytest.mark.parametrize(
    ("uuids", "settings", "error"),
    [
        ([], {}, UsageError),
        ([BASE] * (MAX_WISHES + 1), {}, UsageError),
        (["../x"], {}, InvalidUUIDError),
        ([BASE, "nonsense"], {}, InvalidUUIDError),
        ([BASE], {"pool": "tank"}, PoolNotFoundError),
    ],
)
async def test_what_cannot_be_wished_is_refused_at_once(open_house, uuids, settings, error):
    async with open_house() as house:
        with pytest.raises(error):
            await house.all_events(*uuids, **settings)
        with pytest.raises(ImgstoreError):
            await house.store.cancel("nonsense")
