"""Whatever imgadm's file has as an image's manifest, nothing that is done with the image trips over it."""

from __future__ import annotations

import contextlib
import json
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from imgctl.image_fields import docker_rows, image_row, meets_all, parse_filter
from imgctl.run.usage import ASCII, du_rows, tree_lines
from imgctl.table import sort_rows, table

from imgstored.catalog.catalog import InstalledImage, as_wire
from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.create.manifest import Origin, Source, file_prefix, file_suffix, new_manifest, restoring
from imgstored.errors import AmbiguousNameError, ImgstoreError, ManifestValidationError
from imgstored.maintenance.differences import changed_fields
from imgstored.manifest import MAX_MANIFEST, load, parse
from imgstored.manifest.platform import Platform, check_platform
from imgstored.pools.base import PoolImage
from imgstored.queries import usage
from imgstored.queries.names import named, resolve
from imgstored.rpc.framing import MessageLimits
from imgstored.rpc.wire import Decoder, Response, encode_response
from imgstored.view.tree import tree_of
from tests.support.any_manifests import BASE, FIELDS, OTHER, changed, json_values, objects
from tests.support.messages import encode_request
from tests.support.odd_manifests import ON_DISK

UUID = BASE["uuid"]
GOOD = {**BASE, "uuid": OTHER}

manifests = (changed(json_values) | objects(json_values)).map(lambda manifest: {**manifest, "uuid": UUID})
ODD = [{**each.of(BASE), "uuid": UUID} for each in ON_DISK.values()]


def with_every_odd_one(**others: Any) -> Any:
    """Runs a test with each manifest of the table, too; `others` are its further arguments then."""

    def decorated(test: Any) -> Any:
        for manifest in ODD:
            test = example(manifest=manifest, **others)(test)
        return test

    return decorated


def installed(manifest: dict[str, Any], origin: str | None = None) -> InstalledImage:
    return InstalledImage(
        "zones", PoolImage(manifest["uuid"], 7, origin, "filesystem", 1, 1), manifest, "http://source"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ManifestFiles:
    files = ManifestFiles(tmp_path_factory.mktemp("images"))
    files.prepare()
    return files


@given(manifest=manifests)
@with_every_odd_one()
def test_it_is_read_as_it_is_on_disk(files, manifest):
    files.write("zones", UUID, {**manifest, "uuid": UUID.upper()}, None)
    record = files.read("zones", UUID)
    assert record is not None
    assert record.manifest == manifest


@given(manifest=manifests, places=st.permutations(FIELDS), part=st.text(max_size=2))
@with_every_odd_one(places=FIELDS, part="")
def test_it_is_listed_in_any_columns_order_and_choice(manifest, places, part):
    wires = [as_wire(installed(each)) for each in (manifest, GOOD, {"uuid": OTHER})]
    (response,) = Decoder(MessageLimits()).feed(encode_response(1, wires))
    assert isinstance(response, Response)
    rows = [image_row(image) for image in response.result]
    columns = [*places, "pub", "published", "size", "docker_repo"]
    lines = table(sort_rows(rows, [*places[:2], f"-{places[2]}"]), columns)
    assert len(lines) == 4
    assert all(map(str.isprintable, lines))
    filters = [parse_filter(f"{field}=~{part or 'x'}") for field in places]
    assert [meets_all(row, filters) for row in rows] == [False] * 3
    assert all(map(str.isprintable, table(docker_rows(rows), ["repository", "tag", "image_id", "created"])))


@given(manifest=manifests)
@with_every_odd_one()
def test_it_is_in_the_tree_of_what_images_occupy(manifest):
    image = usage._as_wire(installed(manifest), 5, 6, [])
    pool = {"zpool": "zones", "total": 1 << 30, "available": 1 << 20, "images": [image]}
    assert all(map(str.isprintable, tree_lines(pool, ASCII)))
    assert all(map(str.isprintable, table(du_rows(pool), ["uuid", "name", "version", "own"])))


@given(manifest=manifests, origin=st.none() | st.just(OTHER))
@with_every_odd_one(origin=OTHER)
def test_the_view_has_it_and_its_paths_are_safe(manifest, origin):
    images = [installed(manifest, origin), installed(GOOD)]
    tree = tree_of(images, iter(range(1000)).__next__)
    node = tree.at((UUID.encode(), b"manifest.json"))
    assert json.loads(node.content) == manifest
    for entry in tree.at((b"by-name",)).entries.values():
        for name in (entry.name, *(inner.name for inner in entry.node.entries.values())):
            assert 0 < len(name) <= 255
            assert name not in (b".", b"..")
            assert not set(name) & set(b"/\0\x1b\n")
    for image in images:
        tree.remove(image)
    assert not tree.at((b"by-name",)).entries


@given(manifest=manifests)
@with_every_odd_one()
def test_it_has_a_name_by_which_it_is_found(manifest):
    candidates = [named(manifest), named(GOOD)]
    with contextlib.suppress(AmbiguousNameError):
        found = resolve(f"{candidates[0].name}@latest", candidates)
        assert found is None or found.uuid in (UUID, OTHER)
    shown = installed(manifest)
    assert all(shown.text(field).isprintable() for field in FIELDS)


@given(manifest=manifests, other=manifests)
@with_every_odd_one(other=GOOD)
def test_it_is_compared_with_what_a_source_has(manifest, other):
    assert changed_fields(manifest, manifest) == []
    assert set(changed_fields(manifest, other)) >= (manifest.keys() ^ other.keys()) - {"requirements"}


@given(manifest=manifests, origin=st.none() | st.just(OTHER))
@with_every_odd_one(origin=None)
def test_what_is_exported_can_be_installed(manifest, origin):
    exported = restoring(manifest, uuid=UUID, origin=origin)
    described = {**exported, "files": [{"sha1": "0" * 40, "size": 5, "compression": "none"}]}
    data = json.dumps(described, indent=2, ensure_ascii=False).encode()
    read = parse(data, limit=MAX_MANIFEST)
    Decoder(MessageLimits()).feed(encode_request(1, "install", {"manifest": read, "path": "x"}))
    found = load(read, rules="install")
    assert (found.uuid, found.origin) == (UUID, origin)
    assert found.file is not None
    dropped = {"v", "origin", "files"} if "creator_uuid" not in manifest else set(FIELDS)
    kept = {key: value for key, value in manifest.items() if key not in dropped}
    assert {key: found.document[key] for key in kept if key in found.document} == {
        key: value for key, value in kept.items() if key in found.document
    }
    if "creator_uuid" not in manifest:
        assert kept.keys() <= found.document.keys()
    # And again, from there.
    assert restoring(found.document, uuid=UUID, origin=origin).keys() == exported.keys()
    check_platform(found, None)
    with contextlib.suppress(ImgstoreError):
        check_platform(found, Platform("7.0", "20190314T232247Z"))


@given(manifest=manifests)
@with_every_odd_one()
def test_its_files_have_names(manifest):
    name = file_prefix(manifest) + file_suffix(manifest, "gzip")
    assert PurePosixPath(name).name == name
    assert len(name) < 240
    assert not name.startswith(".imgctl")
    assert name.isascii()
    assert name.isprintable()


@settings(max_examples=50)
@given(manifest=manifests, incremental=st.booleans())
@with_every_odd_one(incremental=True)
def test_what_is_made_of_a_clone_inherits_what_is_good(manifest, incremental):
    source = Source(volume=False, size=1 << 20, brand="joyent")
    fields = {"name": "new", "version": "1"}
    with contextlib.suppress(ManifestValidationError):
        made = new_manifest(fields, source, uuid=OTHER, origin=Origin(manifest, incremental))
        assert made.get("origin") == (UUID if incremental else None)
