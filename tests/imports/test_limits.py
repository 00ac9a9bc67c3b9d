"""What an import under way is said to wait for, in a real store."""

from __future__ import annotations

import pytest
import trio

from imgstored.catalog import image_locks
from imgstored.imports import progress as gauge
from tests.imports.house import TESTER, open_house, pages, until
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.limits import download_limits, import_limits
from tests.support.lock_holder import LockHolder
from tests.support.slow_pool import SlowPool

__all__ = ["open_house", "pages"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_ANNOUNCE_AFTER", 0.05)


async def told(house, uuids, stage, but=lambda job: True):
    """The job of one of these images once it is limited by that stage, as everybody sees it."""
    with trio.fail_after(30):
        while True:
            for job in house.imports.jobs():
                if job["uuid"] in uuids and job["limits"] == stage and but(job):
                    return job
            await trio.sleep(0.05)


@pytest.fixture
def slow_nginx(start_nginx):
    return start_nginx(limit_rate="20k")


async def test_the_pool(open_house):
    async with open_house(kind=SlowPool) as house, house.imports.request([ZVOL], requester=TESTER) as request:
        await told(house, {ZVOL}, "pool", lambda job: job["received"] > 0)
        async for _ in request:
            pass
        assert house.imports.jobs() == []


async def test_somebody_else_who_has_the_lock(open_house, tmp_path):
    async with open_house() as house:
        with LockHolder(tmp_path / "state" / "locks", BASE) as imgadm:
            async with house.imports.request([INCREMENTAL], requester=TESTER):
                job = await told(house, {BASE}, "lock")
                assert (job["done"], job["received"], job["connections"]) == (job["total"], 0, 0)
                assert (await told(house, {INCREMENTAL}, "origin"))["received"] == 0
                imgadm.release()
                await until(lambda: not house.imports.jobs())


async def test_the_network_and_a_turn(open_house, slow_nginx, nginx):
    nginx.stop()
    # The store's source is the address of the first one.
    slow_nginx.stop()
    slow_nginx.port = nginx.port
    slow_nginx.start()
    limits = import_limits(imports=1, download=download_limits(connections=2))
    async with open_house(limits=limits) as house, house.imports.request([BASE, ZVOL], requester=TESTER):
        # Which of them is the first, chance says.
        first = await told(house, {BASE, ZVOL}, "network", lambda job: job["rate"] > 0)
        assert 0 < first["connections"] <= 2
        assert first["eta"] > 0
        second = await told(house, {BASE, ZVOL} - {first["uuid"]}, "turn")
        assert (second["phase"], second["done"], second["connections"]) == ("waiting", 0, 0)


async def test_only_what_is_under_way_is_looked_at(open_house, monkeypatch):
    monkeypatch.setattr(gauge.Gauge, "sample", _Counting(gauge.Gauge.sample))
    async with open_house() as house:
        await house.all_events(BASE)
        before = _Counting.calls
        assert before > 0
        await trio.sleep(2 * gauge.EVERY)
        assert _Counting.calls == before


class _Counting:
    """Counts the calls of a method."""

    calls = 0

    def __init__(self, method):
        self._method = method

    def __get__(self, instance, owner):
        def call(*arguments):
            _Counting.calls += 1
            return self._method(instance, *arguments)

        return call
