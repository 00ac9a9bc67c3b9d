"""Who keeps an image from being deleted, in real pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.holds import Holds
from imgstored.errors import PoolError, UsageError
from imgstored.pools.base import MAX_TAG, Use
from imgstored.pools.embedded import EmbeddedPool
from tests.pools.contract import BASE, INCREMENTAL, ZVOL, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    pools = {name: EmbeddedPool(name, tmp_path / name) for name in ("zones", "tank2")}
    install(pools["zones"], "base")
    install(pools["zones"], "incremental")
    install(pools["tank2"], "zvol")
    catalog = Catalog(pools, tmp_path / "images")
    catalog.load()
    yield catalog
    for pool in pools.values():
        pool.close()


@pytest.mark.parametrize("name", ["x" * 300, "é" * 300, "aé" * 300, "\U0001f4bf" * 300, "日本" * 100])
async def test_a_long_name_of_a_client_is_cut_where_a_character_ends(catalog: Catalog, name: str) -> None:
    async with Holds(catalog).held(BASE, None, name) as tag:
        assert MAX_TAG - 4 < len(tag.encode()) <= MAX_TAG
        assert tag == f"client:1 {name}"[: len(tag)]
        assert catalog.pool("zones").holds(BASE) == [tag]
    assert catalog.pool("zones").holds(BASE) == []


@pytest.mark.parametrize(
    ("tag", "fits"),
    [("é" * (MAX_TAG // 2), True), ("é" * (MAX_TAG // 2) + "x", False), ("x" * MAX_TAG, True)],
)
async def test_a_tag_has_as_many_bytes_as_zfs_takes(catalog: Catalog, tag: str, fits: bool) -> None:
    holds = Holds(catalog)
    if fits:
        await holds.hold(BASE, tag, None)
        assert await holds.tags(BASE, None) == [tag]
        return
    with pytest.raises(UsageError):
        await holds.hold(BASE, tag, None)


async def test_all_of_them(catalog: Catalog) -> None:
    holds = Holds(catalog)
    await holds.hold(BASE, "web 2", None)
    await holds.hold(BASE, "pinned", None)
    await holds.hold(ZVOL, "x", "tank2")
    tags = await holds.all()
    assert {key: each for key, each in tags.items() if each} == {
        ("zones", BASE): ("pinned", "web 2"),
        ("tank2", ZVOL): ("x",),
    }
    assert ("zones", INCREMENTAL) in tags


def test_a_start_releases_the_holds_of_clients_by_one_question_to_each_pool(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones, tank2 = catalog.pool("zones"), catalog.pool("tank2")
    for pool, uuid in ((zones, BASE), (zones, INCREMENTAL), (tank2, ZVOL)):
        pool.hold(uuid, "client:1 imgctl")
        pool.hold(uuid, "golden")

    def holds(pool: EmbeddedPool, uuid: str) -> list[str]:
        raise AssertionError("a question for each image: on ZFS a system call each")

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedPool, "holds", holds)
        Holds(catalog).sweep()
    assert [zones.holds(BASE), zones.holds(INCREMENTAL), tank2.holds(ZVOL)] == [["golden"]] * 3


def test_a_pool_that_fails_keeps_no_other_from_being_swept(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones, tank2 = catalog.pool("zones"), catalog.pool("tank2")
    zones.hold(BASE, "client:1 imgctl")
    tank2.hold(ZVOL, "client:1 imgctl")

    def uses() -> dict[str, Use]:
        raise PoolError('pool "zones" does not answer')

    monkeypatch.setattr(zones, "uses", uses)
    Holds(catalog).sweep()
    assert (zones.holds(BASE), tank2.holds(ZVOL)) == (["client:1 imgctl"], [])
