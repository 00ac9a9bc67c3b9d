"""Names among what is installed, what real sources list, what is under way, and what was done."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import pytest

from imgstored.catalog.aliases import Aliases
from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.catalog.refresh import Refresh
from imgstored.errors import (
    ActiveImageNotFoundError,
    AmbiguousNameError,
    ImageNotFoundError,
    ImageNotInstalledError,
    PoolNotFoundError,
    UsageError,
)
from imgstored.events.stream import Action, Requester, Started
from imgstored.pools.base import PoolImage
from imgstored.pools.embedded import EmbeddedPool
from imgstored.queries.history import History
from imgstored.queries.resolver import MAX_NAMES, Resolver
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from imgstored.state.damage import Aside
from tests.support.image_site import BASE, INCREMENTAL, ImageSite, fixture_manifest

OTHER = "99999999-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def pages(site):
    pages = ImageSite(site)
    pages.add_fixtures()
    pages.add({**fixture_manifest(BASE), "uuid": OTHER, "name": "old", "state": "disabled"}, b"x")
    return pages


@pytest.fixture
def catalog(tmp_path):
    pool = EmbeddedPool("zones", tmp_path / "pool")
    yield Catalog({"zones": pool}, tmp_path / "images")
    pool.close()


@pytest.fixture
def history(tmp_path):
    with closing(History(tmp_path / "history.sqlite")) as history:
        yield history


@pytest.fixture
def jobs():
    return []


@pytest.fixture
def source_set(tmp_path, nginx):
    return SourceSet(
        [SourceSpec(nginx.url, "static")], imgadm_conf=tmp_path / "imgadm.conf", lists=tmp_path / "lists"
    )


@pytest.fixture
def aliases(tmp_path, catalog):
    return Aliases(tmp_path / "aliases.json", catalog, partial(Aside(tmp_path / "damaged").move, lost=""))


@pytest.fixture
def resolver(catalog, source_set, history, jobs, aliases):
    return Resolver(catalog, Refresh(catalog, None), source_set, history, lambda: jobs, aliases)


def install(catalog, uuid, manifest):
    catalog.add(InstalledImage("zones", PoolImage(uuid, 1, None, "filesystem", 1, 1), manifest))


async def one(resolver, name, among, **where):
    (found,) = await resolver.resolve([name], among, **where)
    return found["uuid"]


async def test_installed(resolver, catalog):
    install(catalog, BASE, fixture_manifest(BASE))
    install(catalog, OTHER, {"uuid": BASE, "name": 7})  # has lost its manifest, or has another's
    assert await one(resolver, "base", "installed") == BASE
    assert await one(resolver, "9999", "installed", pool="zones") == OTHER
    with pytest.raises(ImageNotInstalledError, match='image "incremental" was not found on zpool "zones"'):
        await one(resolver, "incremental", "installed")
    with pytest.raises(PoolNotFoundError):
        await one(resolver, "base", "installed", pool="tank")


async def test_in_the_sources(resolver, pages):
    found = await resolver.resolve(["incremental", "old@1.0.0"], "available")
    assert found == [
        {"uuid": INCREMENTAL, "name": "incremental", "version": "1.0.0"},
        {"uuid": OTHER, "name": "old", "version": "1.0.0"},
    ]
    assert await one(resolver, "base", "active") == BASE
    with pytest.raises(
        ActiveImageNotFoundError, match='an active image "old" was not found in image sources'
    ):
        await one(resolver, "old", "active")
    with pytest.raises(ImageNotFoundError, match='image "nothing" was not found'):
        await one(resolver, "nothing", "available")


async def test_in_named_sources_of_which_nothing_is_kept(resolver, pages, tmp_path, nginx):
    assert await one(resolver, "base", "active", sources=[nginx.url], channel="dev") == BASE
    assert not (tmp_path / "lists").exists()


async def test_a_source_that_does_not_answer_may_have_it(resolver, pages, nginx):
    nginx.stop()
    with pytest.raises(ActiveImageNotFoundError) as caught:
        await one(resolver, "base", "active")
    assert "may be at a source that did not answer" in caught.value.hint
    assert len(caught.value.data["problems"]) == 1


async def test_a_list_that_lacks_images_may_lack_it(resolver, pages, site):
    text = (site / "index.html").read_text()
    (site / "index.html").write_text(text.rstrip()[:-1] + ', {"n": NaN}]')
    for among in ("active", "available"):
        with pytest.raises((ImageNotFoundError, ActiveImageNotFoundError)) as caught:
            await one(resolver, "nothing", among)
        assert "1 entry of the list of" in caught.value.hint
        assert "The uuid" in caught.value.hint


async def test_under_way_or_just_installed(resolver, catalog, jobs):
    jobs.append({"uuid": INCREMENTAL, "name": "both", "version": "1", "pool": "zones"})
    install(catalog, BASE, {**fixture_manifest(BASE), "name": "both"})
    assert await one(resolver, "both", "jobs") == INCREMENTAL
    jobs.clear()
    assert await one(resolver, "both", "jobs") == BASE
    with pytest.raises(ImageNotInstalledError):
        await one(resolver, "nothing", "jobs")


async def test_in_the_past(resolver, history):
    for uuid, name in ((BASE, "base"), (BASE, "renamed"), (OTHER, "other")):
        history.hear(Started(Action("import", uuid, name, "1", "zones"), Requester("client")))
    assert await one(resolver, "renamed", "history") == BASE
    with pytest.raises(ImageNotFoundError, match="the history has no image"):
        await one(resolver, "base", "history")


async def test_one_of_several_names_that_fails_fails_all(resolver, catalog):
    install(catalog, BASE, fixture_manifest(BASE))
    install(catalog, OTHER, {**fixture_manifest(BASE), "uuid": OTHER, "version": "2"})
    with pytest.raises(AmbiguousNameError):
        await resolver.resolve(["base@2", "base"], "installed")


@pytest.mark.parametrize(
    ("names", "among"), [(["x"], "nowhere"), ([], "installed"), (["x"] * (MAX_NAMES + 1), "installed")]
)
async def test_what_cannot_be_asked(resolver, names, among):
    with pytest.raises(UsageError):
        await resolver.resolve(names, among)


async def test_an_alias_comes_before_every_name(resolver, catalog, aliases):
    install(catalog, BASE, fixture_manifest(BASE))
    await aliases.set("stable", BASE)
    assert await one(resolver, "stable", "installed") == BASE
    # A server, or another image, that calls itself so takes nothing over.
    install(catalog, OTHER, {"uuid": OTHER, "name": "stable", "version": "9"})
    assert await one(resolver, "stable", "installed") == BASE
    assert await one(resolver, "stable@9", "installed") == OTHER
    await aliases.set("stable", INCREMENTAL)
    with pytest.raises(ImageNotInstalledError) as caught:
        await one(resolver, "stable", "installed")
    assert 'image "stable"' in caught.value.message
    assert f'the alias "stable" means image {INCREMENTAL}, which is not installed' in caught.value.hint
