"""What is installed is what the pool has; manifests are imgadm's files."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from imgstored.catalog import manifest_files
from imgstored.catalog.catalog import Catalog, InstalledImage, as_wire
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.receipts import Receipts, receipt_of
from imgstored.errors import ImageNotInstalledError, PoolNotFoundError
from imgstored.manifest import MAX_LIST
from imgstored.pools.base import PoolImage
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_manifest
from tests.support.lock_holder import LockHolder

if TYPE_CHECKING:
    from collections.abc import Iterable


class FixedPool:
    """A pool that has certain images."""

    def __init__(self, name: str, *images: PoolImage) -> None:
        self.name = name
        self.here = list(images)

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        return self.here

    def image(self, uuid: str) -> PoolImage | None:
        return next((each for each in self.here if each.uuid == uuid), None)


def image(uuid: str, origin: str | None = None) -> PoolImage:
    return PoolImage(uuid, guid=1, origin=origin, kind="filesystem", used=10, referenced=10)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


def opened(folder, *images):
    catalog = Catalog({"zones": FixedPool("zones", *images)}, folder)
    catalog.load()
    return catalog


def test_an_image_comes_back_with_its_manifest_and_source(folder):
    opened(folder).write_manifest("zones", BASE, fixture_manifest(BASE), "http://x")
    written = json.loads((folder / f"zones-{BASE}.json").read_text())
    assert written == {"manifest": fixture_manifest(BASE), "zpool": "zones", "source": "http://x"}
    assert (folder / f"zones-{BASE}.json").read_text().startswith('{\n  "manifest": {\n    "v": 2')
    found = opened(folder, image(BASE)).get("zones", BASE)
    assert (found.manifest, found.source) == (fixture_manifest(BASE), "http://x")


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def locks(tmp_path):
    return ImageLocks(tmp_path / "run")


def test_a_manifest_of_ours_without_its_image_is_no_image_and_swept_up(folder, locks):
    catalog = opened(folder)
    catalog.write_manifest("zones", BASE, fixture_manifest(BASE), None)
    others = [f"other-{BASE}.json", f"zones-{INCREMENTAL}.json", "zones-notes.json"]
    for name in others:
        (folder / name).write_text("{}")
    (folder / f"other-{BASE}.json.unsettled").write_text("")
    again = opened(folder)
    assert again.all() == []
    again.sweep(locks)
    # Such as imgadm writes before it installs, or keeps of a dataset that it is told to ignore.
    assert names(folder) == sorted([*others, f"other-{BASE}.json.unsettled"])


def test_a_manifest_whose_image_came_stays(folder, locks):
    opened(folder).write_manifest("zones", BASE, fixture_manifest(BASE), None)
    again = opened(folder, image(BASE))
    again.sweep(locks)
    assert names(folder) == [f"zones-{BASE}.json"]
    again.mark_pending("zones", BASE)
    again.reconcile("zones", BASE)
    assert names(folder) == [f"zones-{BASE}.json"]
    again.write_manifest("zones", BASE, fixture_manifest(BASE), None)
    again.keep_manifest("zones", BASE)
    assert names(folder) == [f"zones-{BASE}.json"]


def test_a_deletion_that_did_not_end_is_swept_up(folder, locks):
    catalog = opened(folder, image(BASE))
    catalog.write_manifest("zones", BASE, fixture_manifest(BASE), None)
    catalog.keep_manifest("zones", BASE)
    catalog.mark_pending("zones", BASE)
    opened(folder).sweep(locks)
    assert names(folder) == []


def test_what_somebody_is_at_work_on_is_not_swept_up(folder, locks, tmp_path):
    catalog = opened(folder)
    catalog.write_manifest("zones", BASE, fixture_manifest(BASE), None)
    with LockHolder(tmp_path / "run", BASE):
        catalog.sweep(locks)
        assert f"zones-{BASE}.json" in names(folder)
    catalog.sweep(locks)
    assert names(folder) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"manifest": 3}', '{"manifest": {"uuid": "other"}}', "[" * 5000, "\xff"]
)
def test_an_image_whose_manifest_is_broken_is_still_listed(folder, text):
    folder.mkdir()
    (folder / f"zones-{BASE}.json").write_bytes(text.encode("latin-1"))
    found = opened(folder, image(BASE)).get("zones", BASE)
    assert found.manifest == {"uuid": BASE}
    assert found.text("name") == "-"
    assert (folder / f"zones-{BASE}.json").read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), (True, "true"), (None, "-"), ({}, "{}"), ("\x1b[2J", "?[2J")]
)
def test_a_field_is_shown_as_text_whatever_it_is(folder, value, text):
    folder.mkdir()
    written(folder, BASE, name=value, version=value)
    found = opened(folder, image(BASE)).get("zones", BASE)
    assert (found.text("name"), found.text("version")) == (text, text)
    assert found.manifest["name"] == value


def test_a_uuid_that_is_written_in_upper_case_is_the_images(folder):
    folder.mkdir()
    (folder / f"zones-{BASE}.json").write_text(json.dumps({"manifest": {"uuid": BASE.upper(), "name": "x"}}))
    assert opened(folder, image(BASE)).get("zones", BASE).manifest == {"uuid": BASE, "name": "x"}


def test_what_is_no_file_or_too_large_is_not_read(folder):
    folder.mkdir()
    os.mkfifo(folder / f"zones-{BASE}.json")
    (folder / f"zones-{ZVOL}.json").mkdir()
    with (folder / f"zones-{INCREMENTAL}.json").open("wb") as file:
        file.truncate(MAX_LIST + 1)
    catalog = opened(folder, image(BASE), image(ZVOL), image(INCREMENTAL))
    assert [each.text("name") for each in catalog.all()] == ["-"] * 3


# -- what others change --------------------------------------------------------------------------------------


def looked(catalog) -> list[str]:
    """The images that a look changed."""
    with catalog.changes() as ours:
        found = catalog.look("zones", catalog.of_pool("zones"))
        return sorted(each.uuid for each in catalog.apply("zones", found, but=ours))


def written(folder, uuid: str, **fields) -> None:
    """As imgadm does it."""
    record = {"manifest": fixture_manifest(uuid) | fields, "zpool": "zones", "source": "http://y"}
    (folder / f"zones-{uuid}.json").write_text(json.dumps(record, indent=2) + "\n")


def test_what_others_install_update_and_delete_is_seen(folder):
    catalog = opened(folder, image(BASE))
    pool = catalog.pool("zones")
    assert catalog.get("zones", BASE).text("name") == "-"
    assert looked(catalog) == []
    written(folder, BASE)
    written(folder, INCREMENTAL)
    pool.here.append(image(INCREMENTAL, origin=BASE))
    assert looked(catalog) == [BASE, INCREMENTAL]
    assert catalog.get("zones", INCREMENTAL).source == "http://y"
    written(folder, BASE, description="another")
    assert looked(catalog) == [BASE]
    assert catalog.get("zones", BASE).manifest["description"] == "another"
    pool.here.pop()
    (folder / f"zones-{BASE}.json").unlink()
    assert looked(catalog) == [BASE, INCREMENTAL]
    assert [each.manifest for each in catalog.all()] == [{"uuid": BASE}]
    assert looked(catalog) == []


def test_a_file_is_read_again_only_when_it_has_changed(folder, monkeypatch):
    reads = []
    whole = manifest_files._content

    def content(path):
        reads.append(path.rpartition("/")[2])
        return whole(path)

    monkeypatch.setattr(manifest_files, "_content", content)
    folder.mkdir()
    written(folder, BASE)
    (folder / f"zones-{ZVOL}.json").write_text("{")
    catalog = opened(folder, image(BASE), image(ZVOL), image(INCREMENTAL))
    at_first = [f"zones-{uuid}.json" for uuid in (BASE, INCREMENTAL, ZVOL)]
    assert {*reads} <= {*at_first}
    reads.clear()
    assert looked(catalog) == []
    assert reads == []
    written(folder, ZVOL)
    assert looked(catalog) == [ZVOL]
    assert reads == [f"zones-{ZVOL}.json"]


def test_what_we_change_during_a_look_is_not_undone_by_it(folder):
    catalog = opened(folder, image(BASE), image(ZVOL))
    ours = InstalledImage("zones", image(INCREMENTAL), fixture_manifest(INCREMENTAL))
    with catalog.changes() as changed:
        found = catalog.look("zones", catalog.of_pool("zones"))
        catalog.add(ours)
        catalog.remove("zones", BASE)
        del found[ZVOL]
        assert [each.uuid for each in catalog.apply("zones", found, but=changed)] == [ZVOL]
    assert catalog.all() == [ours]


@pytest.mark.alone
def test_a_look_at_a_thousand_images_is_quick(folder):
    uuids = [f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in range(1000)]
    folder.mkdir()
    for uuid in uuids:
        record = {"manifest": fixture_manifest(BASE) | {"uuid": uuid}, "zpool": "zones"}
        (folder / f"zones-{uuid}.json").write_text(json.dumps(record))
    catalog = opened(folder, *map(image, uuids))
    best = 9.0
    for _ in range(5):
        began = time.perf_counter()
        assert looked(catalog) == []
        best = min(best, time.perf_counter() - began)
    assert best < 0.05


def test_clones_are_named(folder):
    catalog = opened(folder, image(BASE), image(INCREMENTAL, origin=BASE))
    assert catalog.clones() == {("zones", BASE): [f"zones/{INCREMENTAL}"]}
    assert as_wire(catalog.get("zones", BASE), [f"zones/{INCREMENTAL}"])["clones"] == 1


def test_the_oldest_comes_first(folder):
    catalog = opened(folder, image(INCREMENTAL, origin=BASE), image(BASE))
    for uuid in (INCREMENTAL, BASE):
        catalog.add(InstalledImage("zones", image(uuid), fixture_manifest(uuid)))
    assert [each.uuid for each in catalog.all()] == [BASE, INCREMENTAL]


def test_what_is_not_there_is_named(folder):
    catalog = opened(folder)
    with pytest.raises(ImageNotInstalledError, match=f'image "{BASE}" was not found on zpool "zones"'):
        catalog.get("zones", BASE)
    with pytest.raises(PoolNotFoundError, match='no such pool: "tank"'):
        catalog.pool("tank")
    assert catalog.pool(None).name == "zones"


# -- who receives straight into POOL/UUID, and writes the manifest afterwards --------------------------------


def received(uuid: str, *, dataset: int = 5, age: float = 1.0) -> PoolImage:
    """As on a ZFS pool, where a dataset's guid and age are known."""
    return replace(image(uuid), dataset=dataset, created=int(time.time() - age))


def test_an_image_is_listed_once_its_manifest_is_whole(folder):
    catalog = opened(folder)
    catalog.pool("zones").here.append(received(BASE))
    path = folder / f"zones-{BASE}.json"
    for text in (None, "", '{"manifest": {"v": 2, "uuid"'):
        if text is not None:
            path.write_text(text)
        assert looked(catalog) == []
        assert (catalog.all(), catalog.unfinished("zones")) == ([], [BASE])
        assert catalog.look_at("zones", BASE) is None
        # A daemon that starts just now knows no more.
        assert opened(folder, received(BASE)).all() == []
    written(folder, BASE)
    assert catalog.look_at("zones", BASE) is not None
    assert looked(catalog) == [BASE]
    assert (len(catalog.all()), catalog.unfinished("zones")) == (1, [])
    assert looked(catalog) == []


def test_it_is_said_once_that_a_manifest_is_missing(folder, capsys):
    catalog = opened(folder)
    catalog.pool("zones").here.append(received(BASE))
    for _ in range(3):
        looked(catalog)
    told = capsys.readouterr().out
    assert (told.count("has no manifest yet"), told.count("image without a manifest")) == (1, 1)


def test_what_comes_to_nothing_is_forgotten(folder):
    catalog = opened(folder)
    pool = catalog.pool("zones")
    pool.here.append(received(BASE))
    assert looked(catalog) == []
    pool.here.clear()
    assert looked(catalog) == []
    assert catalog.unfinished("zones") == []


@pytest.mark.parametrize("text", [None, "{"])
def test_an_image_that_loses_its_manifest_stays(folder, text):
    folder.mkdir()
    written(folder, BASE)
    catalog = opened(folder, received(BASE))
    (folder / f"zones-{BASE}.json").unlink()
    if text is not None:
        (folder / f"zones-{BASE}.json").write_text(text)
    assert looked(catalog) == [BASE]
    assert looked(catalog) == []
    assert [each.manifest for each in catalog.all()] == [{"uuid": BASE}]
    assert catalog.look_at("zones", BASE) is not None


def test_an_image_that_had_lost_its_manifest_before_the_start_is_known_by_its_receipt_or_its_age(
    folder, tmp_path
):
    receipts = Receipts(tmp_path / "receipts")
    for uuid, dataset in ((BASE, 5), (ZVOL, 6)):
        receipts.write("zones", uuid, receipt_of(received(uuid, dataset=dataset), 100, None))
    # Of ZVOL the receipt is of an earlier dataset.
    pool = FixedPool("zones", received(BASE), received(ZVOL), received(INCREMENTAL, age=2 * 86400))
    catalog = Catalog({"zones": pool}, folder, receipts)
    catalog.load()
    assert sorted(each.uuid for each in catalog.all()) == [BASE, INCREMENTAL]
    assert catalog.unfinished("zones") == [ZVOL]


def test_the_same_image_received_anew_is_not_the_one_that_was_listed(folder):
    """A look finds the snapshot's guid as it was: only the dataset is another one."""
    folder.mkdir()
    written(folder, BASE)
    catalog = opened(folder, received(BASE))
    pool = catalog.pool("zones")

    class Anew(FixedPool):
        def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
            return list(known) or self.here

    catalog.pools["zones"] = Anew(pool.name, received(BASE, dataset=6))
    (folder / f"zones-{BASE}.json").unlink()
    assert looked(catalog) == [BASE]
    assert (catalog.all(), catalog.unfinished("zones")) == ([], [BASE])
    written(folder, BASE)
    assert looked(catalog) == [BASE]


def test_a_manifest_that_somebody_has_written_since_is_not_deleted(folder):
    folder.mkdir()
    written(folder, BASE)
    catalog = opened(folder, image(BASE))
    pending = catalog.mark_pending("zones", BASE)
    catalog.forget_manifest("zones", BASE, pending)
    assert names(folder) == []
    written(folder, BASE)
    pending = catalog.mark_pending("zones", BASE)
    written(folder, BASE, description="of the image that is there again")
    catalog.forget_manifest("zones", BASE, pending)
    assert names(folder) == [f"zones-{BASE}.json"]
