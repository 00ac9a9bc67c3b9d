"""What is installed is what the pool has; manifests are imgadm's files."""

from __future__ import annotations

import json

import pytest

from imgstored.errors import ImageNotInstalledError, PoolNotFoundError
from imgstored.pools.base import PoolImage
from imgstored.store.catalog import Catalog, InstalledImage, as_wire
from tests.support.image_site import BASE, INCREMENTAL, fixture_manifest


class FixedPool:
    """A pool that has certain images."""

    def __init__(self, name: str, *images: PoolImage) -> None:
        self.name = name
        self._images = list(images)

    def images(self) -> list[PoolImage]:
        return self._images


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


def test_a_manifest_without_its_image_is_no_image_and_swept_up(folder):
    catalog = opened(folder)
    catalog.write_manifest("zones", BASE, fixture_manifest(BASE), None)
    (folder / f"other-{BASE}.json").write_text("{}")
    (folder / "zones-notes.json").write_text("{}")
    again = opened(folder)
    assert again.all() == []
    again.sweep()
    assert sorted(path.name for path in folder.iterdir()) == [f"other-{BASE}.json", "zones-notes.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"manifest": 3}', '{"manifest": {"uuid": "other"}}', "[" * 5000, "\xff"]
)
def test_an_image_whose_manifest_is_broken_is_still_listed(folder, text):
    folder.mkdir()
    (folder / f"zones-{BASE}.json").write_bytes(text.encode("latin-1"))
    found = opened(folder, image(BASE)).get("zones", BASE)
    assert found.manifest == {"uuid": BASE}
    assert found.text("name") == "-"


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
