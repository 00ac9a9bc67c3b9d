"""Who asks when, and what becomes of the answers. The pool's answers wait for the test."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.catalog.refresh import Refresh
from imgstored.errors import PoolError
from imgstored.pools import timeout
from tests.catalog.test_catalog import image
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.pools.base import PoolImage


class GatedPool:
    """A pool that answers when it may: with what it had when it was asked."""

    def __init__(self, name: str = "zones", *, shared: bool = True) -> None:
        self.name, self.shared = name, shared
        self.here: list[PoolImage] = []
        self.error: Exception | None = None
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        self.asked += 1
        answer = list(self.here)
        self.may_answer.wait(10)
        if self.error is not None:
            raise self.error
        return answer


class SlowView:
    """Takes a step for each change."""

    def __init__(self) -> None:
        self.shown: set[str] = set()
        self._one_at_a_time = trio.Lock()

    async def add(self, image: InstalledImage) -> None:
        async with self._one_at_a_time:
            await trio.lowlevel.checkpoint()
            self.shown.add(image.uuid)

    async def remove(self, image: InstalledImage) -> None:
        async with self._one_at_a_time:
            await trio.lowlevel.checkpoint()
            self.shown.discard(image.uuid)


class Scene:
    """A catalog of some pools, and its refresh."""

    def __init__(self, folder, *pools: GatedPool, every: float = 1000.0) -> None:
        self.pool = pools[0]
        self.catalog = Catalog({pool.name: pool for pool in pools}, folder)
        self.view = SlowView()
        self.catalog.load()
        for pool in pools:
            pool.asked = 0
        self.refresh = Refresh(self.catalog, self.view, every=every)

    def uuids(self) -> list[str]:
        return sorted(each.uuid for each in self.catalog.all())


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "images", GatedPool())


async def until(condition) -> None:
    """Waits for it, up to ten seconds."""
    for _ in range(5000):
        if condition():
            return
        await trio.sleep(0.002)
    raise AssertionError("it never happened")


async def test_requests_at_the_same_time_share_a_look_that_began_after_them(scene):
    pool = scene.pool
    pool.may_answer.clear()
    seen: list[tuple[str, list[str]]] = []

    async def ask(name: str) -> None:
        await scene.refresh.pool("zones")
        seen.append((name, scene.uuids()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "early")
        await until(lambda: pool.asked == 1)
        # The first look has not seen this, and so cannot answer those who come now.
        pool.here.append(image(BASE))
        for _ in range(20):
            nursery.start_soon(ask, "late")
        await trio.testing.wait_all_tasks_blocked(0.01)
        pool.may_answer.set()
    assert pool.asked == 2
    assert [uuids for name, uuids in seen if name == "late"] == [[BASE]] * 20
    assert scene.view.shown == {BASE}


async def test_an_image_of_ours_is_neither_brought_back_nor_dropped(scene):
    pool, catalog = scene.pool, scene.catalog
    pool.here = [image(BASE), image(ZVOL)]
    await scene.refresh.all()
    assert scene.view.shown == {BASE, ZVOL}
    pool.may_answer.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.refresh.all)
        await until(lambda: pool.asked == 2)
        # We delete one and publish another while the look is under way.
        deleted = catalog.get("zones", BASE)
        catalog.remove("zones", BASE)
        await scene.view.remove(deleted)
        published = InstalledImage("zones", image(INCREMENTAL), {"uuid": INCREMENTAL, "name": "ours"})
        catalog.add(published)
        await scene.view.add(published)
        pool.may_answer.set()
    assert scene.uuids() == [INCREMENTAL, ZVOL]
    assert catalog.get("zones", INCREMENTAL).text("name") == "ours"
    assert scene.view.shown == {INCREMENTAL, ZVOL}


async def test_a_deletion_while_the_view_is_brought_up_to_date_stands(scene, monkeypatch):
    pool, catalog, view = scene.pool, scene.catalog, scene.view
    pool.here = [image(BASE), image(ZVOL)]
    whole = SlowView.add

    async def add(self, shown: InstalledImage) -> None:
        other = next(iter({BASE, ZVOL} - {shown.uuid}))
        if not view.shown and (gone := catalog.find("zones", other)) is not None:
            # Before the other one is shown it is deleted, for every reader.
            catalog.remove("zones", other)
            await view.remove(gone)
        await whole(self, shown)

    monkeypatch.setattr(SlowView, "add", add)
    await scene.refresh.all()
    assert len(scene.uuids()) == 1
    assert view.shown == set(scene.uuids())


async def test_who_leaves_does_not_keep_the_view_from_following(scene):
    pool = scene.pool
    pool.here = [image(BASE), image(ZVOL)]
    pool.may_answer.clear()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.refresh.all)
            await until(lambda: pool.asked == 1)
            scope.cancel()
    # The look that was given up is still under way, and no other one is sent after it.
    with trio.move_on_after(0.05):
        await scene.refresh.all()
    assert pool.asked == 1
    pool.may_answer.set()
    await scene.refresh.all()
    assert (pool.asked, scene.view.shown) == (2, {BASE, ZVOL})


async def test_a_pool_that_fails_keeps_what_was_known_but_says_so_to_who_asks(tmp_path):
    failing, sound = GatedPool("zones"), GatedPool("tank2")
    failing.here, sound.here = [image(BASE)], []
    scene = Scene(tmp_path / "images", failing, sound, every=0.001)
    failing.error = PoolError("the pool is gone")
    sound.here = [image(ZVOL)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.refresh.run)
        await until(lambda: failing.asked > 3 and scene.view.shown == {ZVOL})
        nursery.cancel_scope.cancel()
    assert scene.uuids() == [BASE, ZVOL]
    with pytest.raises(PoolError, match="is gone"):
        await scene.refresh.pool("zones")
    await scene.refresh.pool("tank2")
    # One pool's fault does not hide the others' images.
    await scene.refresh.all()
    sound.error = PoolError("it, too")
    with pytest.raises(PoolError):
        await scene.refresh.all()
    failing.error = sound.error = None
    await scene.refresh.all()


async def test_a_fault_is_logged_once_and_its_end_too(scene, capsys):
    scene.pool.error = PoolError("the pool is gone")
    for _ in range(3):
        with pytest.raises(PoolError):
            await scene.refresh.all()
    scene.pool.error = None
    await scene.refresh.all()
    out = "".join(capsys.readouterr())
    assert out.count("a pool does not say what it has") == 1
    assert out.count("a pool says again what it has") == 1


async def test_a_pool_that_does_not_answer_is_not_waited_for_without_end(scene, monkeypatch):
    monkeypatch.setattr(timeout, "TIMEOUT", 0.02)
    scene.pool.may_answer.clear()
    try:
        with pytest.raises(PoolError, match='pool "zones" does not answer'):
            await scene.refresh.all()
    finally:
        scene.pool.may_answer.set()


async def test_a_pool_of_our_own_is_never_asked(tmp_path):
    scene = Scene(tmp_path / "images", GatedPool(shared=False))
    await scene.refresh.all()
    await scene.refresh.pool("zones")
    assert scene.pool.asked == 0
