"""What happens to copies whose source does not offer them any more: a real web server, a real folder."""

from __future__ import annotations

import pytest

from imgstored.library.library import Library
from imgstored.manifest import load
from imgstored.mirrors.withdrawals import Withdrawals
from imgstored.serve.application import Application
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.http_server import serving
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_file, fixture_manifest


@pytest.fixture
def site(tmp_path):
    site = ImageSite(tmp_path / "site")
    site.add_fixtures()
    return site


@pytest.fixture
def server(site, start_nginx):
    return start_nginx(root=site.folder)


@pytest.fixture
def library(tmp_path, server):
    library = Library(tmp_path / "library", 1 << 30, pinned=lambda: pinned)
    pinned = library.test_pinned = set()
    library.open()
    return library


def add(library, server, uuid, kind="kept", **fields):
    file = library.folder.parent / f"spool-{uuid}"
    file.write_bytes(fixture_file(uuid).read_bytes())
    manifest = load({**fixture_manifest(uuid), **fields}, rules="import")
    assert library.keep(manifest, file, kind=kind, source=server.url)


@pytest.fixture
def looking(tmp_path, server, library):
    sources = SourceSet(
        [SourceSpec(server.url, "static")], imgadm_conf=tmp_path / "imgadm.conf", lists=tmp_path / "lists"
    )
    return Withdrawals(library, sources)


def change(site, uuid, **fields):
    """Another manifest of the image; without fields the image goes."""
    new = [{**each, **fields} if each["uuid"] == uuid else each for each in site.manifests]
    site.manifests[:] = new if fields else [each for each in new if each["uuid"] != uuid]
    site._write_list()


def uuids(library):
    return [image.uuid for image in library.images()]


async def test_what_is_offered_stays(looking, library, server):
    add(library, server, ZVOL)
    for _ in range(3):
        await looking.look()
    assert uuids(library) == [ZVOL]
    assert library.copied_from(ZVOL) is not None


async def test_a_disabled_image_goes_at_once_with_its_room(looking, library, server, site):
    for uuid in (BASE, ZVOL):
        add(library, server, uuid)
    change(site, ZVOL, state="disabled", disabled=True)
    await looking.look()
    assert uuids(library) == [BASE]
    assert not (library.folder / ZVOL).exists()
    assert library.size == fixture_file(BASE).stat().st_size


async def test_one_that_is_gone_goes_once_two_looks_agree(looking, library, server, site):
    for uuid in (BASE, ZVOL):
        add(library, server, uuid)
    before = list(site.manifests)
    change(site, ZVOL)
    await looking.look()
    assert ZVOL in uuids(library)
    site.manifests[:] = before  # it was away for a moment
    site._write_list()
    await looking.look()
    change(site, ZVOL)
    await looking.look()
    assert ZVOL in uuids(library)
    await looking.look()
    assert uuids(library) == [BASE]


@pytest.mark.parametrize("fault", ["down", "empty", "no source any more"])
async def test_a_source_that_says_nothing_takes_nothing_away(looking, library, server, site, fault, tmp_path):
    add(library, server, ZVOL)
    if fault == "down":
        server.stop()
    elif fault == "empty":
        site.manifests.clear()
        site._write_list()
    else:
        looking._sources.reconfigure([])
    for _ in range(3):
        await looking.look()
    assert uuids(library) == [ZVOL]
    assert library.copied_from(ZVOL) is not None


async def test_a_look_that_failed_does_not_count(looking, library, server, site):
    add(library, server, ZVOL)
    change(site, ZVOL)
    await looking.look()
    server.stop()
    await looking.look()
    assert uuids(library) == [ZVOL]
    server.start()
    await looking.look()
    assert uuids(library) == []


@pytest.mark.parametrize("kind", ["mirrored", "scheduled", "pinned"])
async def test_what_is_to_stay_stays_for_nobody_until_it_is_offered_again(
    looking, library, server, site, kind, tmp_path
):
    if kind == "pinned":
        library.test_pinned.add(ZVOL)
    add(library, server, ZVOL, "kept" if kind == "pinned" else kind)
    change(site, ZVOL, state="disabled", disabled=True)
    await looking.look()
    assert library.get(ZVOL).entry.withdrawn
    assert library.copied_from(ZVOL) is None
    again = Library(library.folder, 1 << 30)
    again.open()
    assert again.get(ZVOL).entry.withdrawn
    change(site, ZVOL, state="active", disabled=False)
    await looking.look()
    assert not library.get(ZVOL).entry.withdrawn
    assert library.copied_from(ZVOL) is not None


async def test_an_origin_stays_as_long_as_an_image_builds_on_it(looking, library, server, site):
    for uuid in (BASE, INCREMENTAL):
        add(library, server, uuid)
    change(site, BASE, state="disabled", disabled=True)
    await looking.look()
    assert {*uuids(library)} == {BASE, INCREMENTAL}
    assert not library.get(BASE).entry.withdrawn
    change(site, INCREMENTAL, state="disabled", disabled=True)
    await looking.look()
    await looking.look()
    assert uuids(library) == []


async def test_what_was_published_here_is_nobody_elses(looking, library, server, site):
    library.publish(load({**fixture_manifest(ZVOL), "files": []}, rules="create"))
    change(site, ZVOL)
    for _ in range(3):
        await looking.look()
    assert uuids(library) == [ZVOL]


async def test_a_mirrored_server_is_asked_also_where_it_is_no_source(library, server, tmp_path):
    upstream = Library(tmp_path / "upstream", 1 << 30)
    upstream.open()
    for uuid in (BASE, ZVOL):
        add(upstream, server, uuid)
    sources = SourceSet([], imgadm_conf=tmp_path / "imgadm.conf", lists=tmp_path / "lists")
    with serving(Application(upstream)) as running:
        add(library, running, ZVOL)
        upstream.remove(ZVOL)
        for mirrored, left in ((set(), [ZVOL]), ({running.url}, [])):
            looking = Withdrawals(library, sources, mirrored=lambda urls=mirrored: urls)
            for _ in range(2):
                await looking.look()
            assert uuids(library) == left
