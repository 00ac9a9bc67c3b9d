"""Clients that wait for changes of a pool that does not answer, and what becomes of the changes."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import trio

from imgstored.errors import ImageNotInstalledError, PoolError
from imgstored.events.stream import Requester
from imgstored.pools import timeout
from imgstored.pools.embedded import EmbeddedPool
from tests.imports.house import TESTER, open_house, pages, until
from tests.support.events import Installed, Note
from tests.support.image_site import BASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.imports.house import House

__all__ = ["open_house", "pages"]

NO_ANSWER = Note('pool "zones" does not answer; waiting for it')


class HangingPool(EmbeddedPool):
    """While `go` is not set, changes named in `hanging` wait: as calls of a pool whose disks are gone."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.go = threading.Event()
        self.hanging: set[str] = set()
        self.waiting: list[str] = []

    def _wait(self, change: str) -> None:
        if change in self.hanging:
            self.waiting.append(change)
            assert self.go.wait(60)

    def hold(self, uuid: str, tag: str) -> None:
        self._wait("hold")
        super().hold(uuid, tag)

    def release(self, uuid: str, tag: str) -> None:
        self._wait("release")
        super().release(uuid, tag)

    def destroy(self, uuid: str) -> None:
        self._wait("destroy")
        super().destroy(uuid)

    def publish(self, uuid: str) -> Any:
        self._wait("publish")
        return super().publish(uuid)

    def abandon(self, uuid: str) -> None:
        self._wait("abandon")
        super().abandon(uuid)


@pytest.fixture
def hanging_house(open_house: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A house whose pool has BASE; what is named hangs from then on."""

    @asynccontextmanager
    async def opened(*hanging: str, installed: bool = True) -> AsyncIterator[House]:
        async with open_house(kind=HangingPool) as house:
            try:
                if installed:
                    await house.all_events(BASE)
                house.pool.hanging |= {*hanging}
                if installed and hanging:
                    monkeypatch.setattr(timeout, "CHANGE_TIMEOUT", 0.05)
                yield house
            finally:
                house.pool.go.set()

    return opened


async def test_a_deletion_is_answered_and_goes_on(hanging_house: Any) -> None:
    async with hanging_house("destroy") as house:
        with pytest.raises(PoolError, match='pool "zones" does not answer') as caught:
            await house.delete(BASE)
        assert "the deletion goes on when it answers" in caught.value.hint
        # It is one deletion, which others wait for no longer either, and it has the image's lock.
        for request in (house.delete(BASE), house.images.hold(BASE, "tag", None), house.all_events(BASE)):
            with pytest.raises(PoolError, match="does not answer"):
                await request
        with house.resources.locks.tried(BASE) as free:
            assert not free
        assert house.pool.waiting == ["destroy"]
        house.pool.go.set()
        await until(lambda: house.catalog.find("zones", BASE) is None and not house.view.shown)
        with pytest.raises(ImageNotInstalledError):
            await house.delete(BASE)
        await house.all_events(BASE)
        assert house.pool.image(BASE) is not None


async def test_a_deletion_goes_on_without_its_client(hanging_house: Any, monkeypatch: Any) -> None:
    async with hanging_house("destroy") as house:
        monkeypatch.setattr(timeout, "CHANGE_TIMEOUT", 60.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.delete, BASE)
            await until(lambda: house.pool.waiting)
            nursery.cancel_scope.cancel()
        assert house.catalog.find("zones", BASE) is not None
        house.pool.go.set()
        await until(lambda: house.catalog.find("zones", BASE) is None)


@pytest.mark.parametrize("change", ["hold", "release"])
async def test_a_hold_that_is_not_answered_may_still_be_made(
    hanging_house: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with hanging_house() as house:
        if change == "release":
            await house.images.hold(BASE, "tag", None)
        house.pool.hanging.add(change)
        monkeypatch.setattr(timeout, "CHANGE_TIMEOUT", 0.05)
        with pytest.raises(PoolError, match="does not answer") as caught:
            await getattr(house.images, change)(BASE, "tag", None)
        assert "may still make the change" in caught.value.hint
        house.pool.go.set()
        await until(lambda: house.pool.holds(BASE) == (["tag"] if change == "hold" else []))


async def test_a_clients_hold_that_comes_too_late_is_released(hanging_house: Any) -> None:
    async with hanging_house("hold") as house:
        with pytest.raises(PoolError, match="does not answer"):
            async with house.images.holding(BASE, None, requester=Requester("vm")):
                raise AssertionError("it is not held")
        released = threading.Event()
        release = house.pool.release

        def releasing(uuid: str, tag: str) -> None:
            assert house.pool.holds(uuid) == [tag]
            release(uuid, tag)
            released.set()

        house.pool.release = releasing
        house.pool.go.set()
        assert await trio.to_thread.run_sync(released.wait, 30)
        assert house.pool.holds(BASE) == []


@pytest.mark.parametrize("change", ["publish", "abandon"])
async def test_an_import_tells_its_clients_that_it_waits(
    hanging_house: Any, monkeypatch: Any, change: str
) -> None:
    monkeypatch.setattr(timeout, "NOTICE", 0.05)
    async with hanging_house(change, installed=False) as house:
        if change == "abandon":
            # It fails, and then its partial cannot be dropped.
            monkeypatch.setattr(EmbeddedPool, "publish", _fails)
        async with house.imports.request([BASE], requester=TESTER) as request:
            events: list[object] = []
            with pytest.raises(PoolError, match="it is broken") if change == "abandon" else nullcontext():
                async for event in request:
                    events.append(event)
                    if event == NO_ANSWER:
                        house.pool.go.set()
        assert events.count(NO_ANSWER) == 1
        assert (Installed(BASE, "base", "1.0.0") in events) == (change == "publish")


def _fails(self: EmbeddedPool, uuid: str) -> None:
    raise PoolError("it is broken")
