"""Updating and vacuuming, with a real pool, real files and a web server; a pool stands in for ZFS's."""

from __future__ import annotations

import json
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
from msgspec.structs import replace

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.refresh import Refresh
from imgstored.errors import NoSourcesError, UsageError
from imgstored.maintenance.maintenance import Maintenance
from imgstored.pools.embedded import EmbeddedPool
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.events import (
    Left,
    ManifestUpdated,
    NotInSources,
    SnapshotRenamed,
)
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_manifest
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imgproto.events import EventDocument

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.pools.base import PoolImage, Use
    from tests.support.nginx import Nginx

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"


class ShownImages:
    """A view that only knows what it was told."""

    def __init__(self) -> None:
        self.manifests: dict[str, Any] = {}

    async def add(self, image: InstalledImage) -> None:
        self.manifests[image.uuid] = image.manifest

    async def remove(self, image: InstalledImage) -> None:
        self.manifests.pop(image.uuid, None)


class PoolWithSnapshots(EmbeddedPool):
    """Its images in `hidden` have other snapshots than @final, as only ZFS allows, and so are none."""

    hidden: dict[str, dict[str, int]] = {}  # noqa: RUF012
    cloned: dict[str, list[str]] = {}  # noqa: RUF012
    asked = 0

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        return [image for image in super().images(known) if image.uuid not in self.hidden]

    def image(self, uuid: str) -> PoolImage | None:
        return None if uuid in self.hidden else super().image(uuid)

    def unnamed(self) -> dict[str, dict[str, int]]:
        return dict(self.hidden)

    def name_final(self, uuid: str, snapshot: str) -> PoolImage:
        assert snapshot in self.hidden.pop(uuid)
        image = self.image(uuid)
        assert image is not None
        return image

    def uses(self) -> dict[str, Use]:
        self.asked += 1
        return {
            uuid: replace(use, dependents=(*use.dependents, *self.cloned.get(uuid, ())))
            for uuid, use in super().uses().items()
        }


@dataclass
class House:
    maintenance: Maintenance
    pool: PoolWithSnapshots
    catalog: Catalog
    view: ShownImages
    folder: Path
    coming: list[str]
    notified: list[EventDocument] = field(default_factory=list)

    def record(self, uuid: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.file(uuid).read_text())
        return read

    def file(self, uuid: str) -> Path:
        return self.folder / "images" / f"zones-{uuid}.json"

    async def update(self, *uuids: str, dry_run: bool = False) -> list[object]:
        async with self.maintenance.update(uuids, dry_run=dry_run) as events:
            return [event async for event in events]

    async def vacuum(self, *, older_than: int | None = None, keep: int = 0) -> list[str]:
        async def tell(event: EventDocument) -> None:
            self.notified.append(event)

        self.notified = []
        images = await self.maintenance.vacuum(older_than=older_than, keep=keep, tell=tell)
        return [image["uuid"] for image in images]


@pytest.fixture
def pages(site: Path) -> ImageSite:
    pages = ImageSite(site)
    pages.add_fixtures()
    return pages


@pytest.fixture
def open_house(tmp_path: Path, nginx: Nginx, pages: ImageSite):
    @asynccontextmanager
    async def opened(*uuids: str, manifests: dict[str, Any] | None = None, sources: bool = True):
        """`uuids` are installed; `manifests` are what imgadm's files say of them instead of the source."""
        folder = tmp_path / "imgadm"
        pool = PoolWithSnapshots("zones", tmp_path / "pool")
        pool.hidden, pool.cloned = {}, {}
        catalog = Catalog({"zones": pool}, folder / "images")
        catalog.load()
        for number, uuid in enumerate(uuids):
            pool.receive(uuid, [filesystem_stream(size=200_000, seed=number)])
            pool.publish(uuid)
            manifest = (manifests or {}).get(uuid, fixture_manifest(uuid) if uuid != MADE else None)
            if manifest is not None:
                catalog.write_manifest("zones", uuid, manifest, nginx.url)
                catalog.keep_manifest("zones", uuid)
        catalog.load()
        view, coming = ShownImages(), []
        source_set = SourceSet(
            [SourceSpec(nginx.url, "static")] if sources else [],
            imgadm_conf=folder / "imgadm.conf",
            lists=tmp_path / "lists",
        )
        locks = ImageLocks(tmp_path / "locks")
        refresh = Refresh(catalog, view)
        maintenance = Maintenance(catalog, source_set, locks, view, refresh, lambda pool, uuid: coming)
        try:
            yield House(maintenance, pool, catalog, view, folder, coming)
        finally:
            pool.close()

    return opened


class TestUpdate:
    async def test_what_a_source_says_differently_is_written_down(self, open_house, nginx):
        old = {**fixture_manifest(ZVOL), "description": "old", "tags": {"a": 1}}
        async with open_house(ZVOL, BASE, manifests={ZVOL: old}) as house:
            os.utime(house.file(ZVOL), (1000.0, 1000.0))
            (event,) = await house.update()
            assert event == ManifestUpdated(ZVOL, "zones", nginx.url, ["description", "tags"])
            assert house.record(ZVOL)["manifest"] == fixture_manifest(ZVOL)
            assert house.catalog.get("zones", ZVOL).manifest == fixture_manifest(ZVOL)
            assert house.view.manifests == {ZVOL: fixture_manifest(ZVOL)}
            assert house.file(ZVOL).stat().st_mtime == 1000.0, "the time is that of the installation"
            assert await house.update() == []

    async def test_what_somebody_has_just_received_gets_its_manifest_only_if_it_is_named(
        self, open_house, monkeypatch
    ):
        """As Triton's agent leaves it where it is killed before it writes the manifest."""
        image = PoolWithSnapshots.image

        def fresh(self, uuid):
            found = image(self, uuid)
            return None if found is None else replace(found, dataset=5, created=int(time.time()))

        def all_fresh(self, known=()):
            return [fresh(self, each) for each in self._images]

        monkeypatch.setattr(PoolWithSnapshots, "image", fresh)
        monkeypatch.setattr(PoolWithSnapshots, "images", all_fresh)
        async with open_house(ZVOL, BASE, manifests={BASE: None}) as house:
            assert house.catalog.unfinished("zones") == [BASE]
            assert await house.update() == []
            assert not house.file(BASE).exists()
            (event,) = await house.update(BASE)
            assert (event["uuid"], event["fields"]) == (BASE, None)
            assert house.catalog.get("zones", BASE).manifest == fixture_manifest(BASE)
            assert house.view.manifests == {BASE: fixture_manifest(BASE)}
            assert await house.update(BASE) == []
            assert house.catalog.unfinished("zones") == []

    async def test_a_dry_run_changes_nothing(self, open_house):
        old = {**fixture_manifest(ZVOL), "description": "old"}
        async with open_house(ZVOL, BASE, manifests={ZVOL: old}) as house:
            house.pool.hidden = {BASE: {"other": 5}}
            house.catalog.remove("zones", BASE)
            before = {path: (path.stat().st_ino, path.read_bytes()) for path in house.folder.rglob("*.json")}
            kinds = [event["event"] for event in await house.update(dry_run=True)]
            assert kinds == ["manifest-updated", "original-unknown"]
            after = {path: (path.stat().st_ino, path.read_bytes()) for path in house.folder.rglob("*.json")}
            assert before == after
            assert house.pool.hidden == {BASE: {"other": 5}}
            assert house.view.manifests == {}

    async def test_an_image_without_a_manifest_gets_one(self, open_house, nginx):
        async with open_house(ZVOL, manifests={ZVOL: None}) as house:
            assert not house.file(ZVOL).exists()
            assert await house.update() == [ManifestUpdated(ZVOL, "zones", nginx.url, None)]
            assert house.record(ZVOL) == {
                "manifest": fixture_manifest(ZVOL),
                "zpool": "zones",
                "source": nginx.url,
            }

    async def test_only_those_that_are_named(self, open_house, nginx):
        async with open_house(ZVOL, BASE, manifests={ZVOL: None, BASE: None}) as house:
            assert await house.update(BASE) == [ManifestUpdated(BASE, "zones", nginx.url, None)]
            with pytest.raises(UsageError, match=rf"no installed image with the given UUID\(s\): {MADE}"):
                await house.update(MADE, BASE)

    async def test_what_fails_with_one_does_not_keep_others(self, open_house, pages, nginx):
        manifest = next(each for each in pages.manifests if each["uuid"] == BASE)
        manifest["files"] = "nonsense"
        pages._write_list()
        async with open_house(BASE, MADE, ZVOL, manifests={ZVOL: None}) as house:
            events = {event["uuid"]: event for event in await house.update()}
            assert events[BASE]["event"] == "update-failed"
            assert events[BASE]["error"]["code"] == "ManifestValidation"
            assert events[MADE] == NotInSources(MADE)
            assert events[ZVOL]["event"] == "manifest-updated"

    async def test_a_file_that_cannot_be_written_is_a_failure_of_that_image(self, open_house):
        async with open_house(ZVOL, manifests={ZVOL: None}) as house:
            (house.folder / "images" / f"zones-{ZVOL}.json.new").mkdir()
            (event,) = await house.update()
            assert event["event"] == "update-failed"
            assert "cannot be written" in event["error"]["message"]

    async def test_without_sources_it_ends_at_once(self, open_house):
        async with open_house(ZVOL, BASE, sources=False) as house:
            with pytest.raises(NoSourcesError):
                await house.update()

    async def test_an_original_snapshot_becomes_final(self, open_house, pages):
        manifest = next(each for each in pages.manifests if each["uuid"] == BASE)
        manifest["files"][0]["dataset_guid"] = "7"
        pages._write_list()
        async with open_house(BASE) as house:
            house.pool.hidden = {BASE: {"x": 6, "old": 7}}
            house.catalog.remove("zones", BASE)
            events = await house.update()
            assert [event["event"] for event in events] == ["manifest-updated", "snapshot-renamed"]
            assert events[-1] == SnapshotRenamed(BASE, "zones", "old")
            assert house.pool.hidden == {}
            assert house.catalog.get("zones", BASE).manifest == house.record(BASE)["manifest"]
            assert BASE in house.view.manifests

    async def test_a_dataset_that_nobody_named_and_has_no_manifest_is_left_alone(self, open_house):
        async with open_house(BASE, manifests={BASE: None}) as house:
            house.pool.hidden = {BASE: {"x": 6}}
            house.catalog.remove("zones", BASE)
            assert await house.update() == []
            assert [event["event"] for event in await house.update(BASE)] == [
                "manifest-updated",
                "original-unknown",
            ]

    async def test_it_waits_for_who_works_on_the_image(self, open_house):
        async with open_house(ZVOL, manifests={ZVOL: None}) as house:
            events: list[object] = []

            async def update() -> None:
                events.extend(await house.update())

            async with trio.open_nursery() as nursery, house.maintenance._locks.held(ZVOL):
                nursery.start_soon(update)
                await trio.sleep(0.3)
                assert not house.file(ZVOL).exists()
            assert len(events) == 1


class TestVacuum:
    async def test_what_nothing_needs(self, open_house):
        async with open_house(ZVOL, BASE, INCREMENTAL) as house:
            house.pool.cloned = {BASE: ["zones/machine"]}
            assert await house.vacuum() == [INCREMENTAL, ZVOL]
            # One question, however many images there are.
            assert house.pool.asked == 1
            assert house.notified == []

    async def test_what_is_held_or_about_to_be_cloned_stays(self, open_house):
        async with open_house(ZVOL, BASE) as house:
            house.pool.hold(ZVOL, "pinned")
            assert await house.vacuum() == [BASE]
            house.coming.append("zones/x-partial")
            assert await house.vacuum() == []

    async def test_what_nobody_knows_may_be_a_machine(self, open_house):
        async with open_house(ZVOL, BASE, manifests={BASE: None}) as house:
            assert await house.vacuum() == [ZVOL]
            assert house.notified == [Left(BASE, "zones", "no manifest")]
            # Which need not be said of what would stay anyway.
            house.pool.hold(BASE, "pinned")
            assert await house.vacuum() == [ZVOL]
            assert house.notified == []

    async def test_by_the_time_of_the_installation(self, open_house):
        async with open_house(ZVOL, BASE) as house:
            hour_ago = time.time() - 3600
            os.utime(house.file(BASE), (hour_ago, hour_ago))
            assert await house.vacuum(older_than=60) == [BASE]
            assert await house.vacuum(older_than=7200) == []

    async def test_keeping_the_newest(self, open_house):
        newer = {**fixture_manifest(BASE), "uuid": MADE, "published_at": "2027-01-01T00:00:00Z"}
        async with open_house(BASE, MADE, manifests={MADE: newer}) as house:
            assert await house.vacuum(keep=1) == [BASE]

    @pytest.mark.parametrize("wrong", [{"keep": -1}, {"older_than": -1}])
    async def test_less_than_nothing_is_refused(self, open_house, wrong):
        async with open_house(ZVOL) as house:
            with pytest.raises(UsageError):
                await house.vacuum(**wrong)
