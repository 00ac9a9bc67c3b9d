"""What `status` answers, also while a pool hangs or a source is down."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
import trio

from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.errors import DownloadError, PoolError
from imgstored.events.stream import Action, Ended, Refused, Requester, Started
from imgstored.pools.base import PoolImage
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.zfs.system import health
from imgstored.queries.history import History
from imgstored.queries.status import FAILURES, TIMEOUT, Daemon, PoolStates, Status
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.image_site import BASE, ImageSite

CLOSED = "http://127.0.0.1:9"

CLIENT = Requester("client", 0)


class Pool(EmbeddedPool):
    """Hangs while it is told to, or fails."""

    def __init__(self, name, folder):
        super().__init__(name, folder)
        self.go = threading.Event()
        self.go.set()
        self.error = None
        self.asked = 0

    def space(self):
        self.asked += 1
        self.go.wait(30)
        if self.error is not None:
            raise self.error
        return super().space()


@pytest.fixture
def pools(tmp_path):
    opened = {name: Pool(name, tmp_path / name) for name in ("zones", "tank")}
    yield opened
    for pool in opened.values():
        pool.go.set()
        pool.close()


@pytest.fixture
def catalog(pools, tmp_path):
    return Catalog(pools, tmp_path / "images")


@pytest.fixture
def source_set(nginx, site, tmp_path):
    ImageSite(site).add_fixtures()
    specs = [SourceSpec(f"{nginx.url}?token=secret", "static"), SourceSpec(CLOSED)]
    return SourceSet(specs, imgadm_conf=tmp_path / "imgadm.conf", lists=tmp_path / "lists")


@pytest.fixture
def history(tmp_path):
    with closing(History(tmp_path / "history.sqlite")) as opened:
        yield opened


def states(catalog, timeout=0.2):
    kinds = {"zones": "embedded", "tank": "zfs"}
    return PoolStates(catalog, kinds, timeout, {"tank": "DEGRADED", "zones": "of another pool"}.get)


# -- pools ---------------------------------------------------------------------------------------------------


async def test_pools_that_answer(catalog, pools):
    zones, tank = await states(catalog).all()
    space = pools["zones"].space()
    assert zones == {
        "name": "zones",
        "type": "embedded",
        "state": "ok",
        "total": space.total,
        "available": pytest.approx(space.available, rel=0.2),
        "used": 0,  # the disk is full of other things
        "error": None,
        "health": None,
        "images": 0,
        "unfinished": [],
    }
    assert (tank["name"], tank["type"], tank["state"]) == ("tank", "zfs", "ok")
    assert tank["used"] == tank["total"] - tank["available"]


async def test_an_embedded_pool_uses_what_its_images_occupy(catalog):
    for number, used in ((1, 3 << 20), (2, 4 << 20)):
        uuid = f"11111111-aaaa-4bbb-8ccc-{number:012}"
        image = PoolImage(uuid, number, None, "filesystem", used, used)
        catalog.add(InstalledImage("zones", image, {"uuid": uuid}))
    zones, _ = await states(catalog).all()
    assert (zones["images"], zones["used"]) == (2, 7 << 20)


async def test_a_pool_that_hangs_is_silent_and_hides_nothing(catalog, pools):
    looks = states(catalog)
    pools["tank"].go.clear()
    for _ in range(5):
        with trio.fail_after(10):
            zones, tank = await looks.all()
        assert zones["state"] == "ok"
        assert (tank["state"], tank["total"], tank["available"]) == ("no answer", None, None)
        assert tank["error"]["message"] == 'pool "tank" does not answer'
        await trio.sleep(0.2)
    # Nobody is sent after the one who hangs.
    assert pools["tank"].asked == 1
    pools["tank"].go.set()
    for _ in range(100):
        if (await looks.all())[1]["state"] == "ok":
            break
        await trio.sleep(0.1)
    assert (await looks.all())[1]["state"] == "ok"


async def test_who_hangs_costs_the_next_ones_no_time(catalog, pools):
    looks = states(catalog, timeout=0.5)
    pools["tank"].go.clear()
    await looks.all()
    with trio.move_on_after(0.4) as scope:
        await looks.all()
    assert not scope.cancelled_caught


async def test_how_zfs_says_that_a_pool_is(catalog, pools):
    pools["tank"].go.clear()
    zones, tank = await states(catalog).all()
    assert (zones["health"], tank["health"]) == (None, "DEGRADED")


async def test_a_system_that_does_not_say_how_a_pool_is(catalog, pools, tmp_path):
    """As illumos, where the folder of Linux's files is not there."""
    looks = PoolStates(
        catalog, {"zones": "zfs", "tank": "zfs"}, 5.0, lambda pool: health(pool, tmp_path / "kstat")
    )
    assert [(each["health"], each["state"]) for each in await looks.all()] == [(None, "ok"), (None, "ok")]


async def test_a_pool_that_fails(catalog, pools):
    pools["zones"].error = PoolError("the disks are gone", hint="look at them")
    zones, tank = await states(catalog).all()
    assert (zones["state"], zones["error"]["message"]) == ("failed", "the disks are gone")
    assert tank["state"] == "ok"


async def test_many_who_ask_at_once_are_one_question(catalog, pools):
    looks = states(catalog)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(looks.all)
    assert pools["zones"].asked == 1


async def test_who_leaves_while_a_pool_hangs_leaves_it_to_the_others(catalog, pools):
    looks = states(catalog, timeout=5.0)
    pools["tank"].go.clear()
    with trio.move_on_after(0.1):
        await looks.all()
    with trio.fail_after(3):  # less than its timeout: who hangs hangs already
        _, tank = await looks.all()
    assert tank["state"] == "no answer"
    assert "has not answered" in tank["error"]["message"]


def test_its_timeout_is_short():
    assert TIMEOUT <= 3


# -- all of it -----------------------------------------------------------------------------------------------


@pytest.fixture
def status(catalog, source_set, history):
    jobs = [{"uuid": BASE, "phase": "waiting"}, {"uuid": BASE, "phase": "downloading"}]
    daemon = Daemon("1.2.3", 7, "/etc/imgstored.toml", lambda: "fuse", "/images")
    return Status(
        daemon,
        states(catalog),
        source_set,
        history,
        jobs=lambda: jobs,
        clients=lambda: 3,
        warnings=lambda: [{"at": "2026-11-24T23:00:00Z", "level": "warning", "text": "look out"}],
    )


async def test_what_there_is(status):
    found = await status.status()
    assert {
        key: found[key] for key in ("version", "pid", "config", "view", "view_path", "clients", "images")
    } == {
        "version": "1.2.3",
        "pid": 7,
        "config": "/etc/imgstored.toml",
        "view": "fuse",
        "view_path": "/images",
        "clients": 3,
        "images": 0,
    }
    assert 0 <= found["uptime"] < 100
    assert found["started_at"] == pytest.approx(time.time(), abs=100)
    assert [pool["name"] for pool in found["pools"]] == ["zones", "tank"]
    assert (len(found["imports"]), found["waiting"]) == (2, 1)
    assert found["failures"] == []
    assert [warning["text"] for warning in found["warnings"]] == ["look out"]


async def test_how_the_sources_did(status, source_set, nginx):
    never, _ = (await status.status())["sources"]
    assert never == {
        "url": nginx.url,  # without what may be secret
        "type": "static",
        "answered_at": None,
        "failed_at": None,
        "error": None,
        "listed_at": None,
    }
    hits = len(nginx.settled_hits())
    before = time.time()
    await source_set.available()
    first, second = (await status.status())["sources"]
    assert first["answered_at"] >= before
    assert first["listed_at"] >= before - 1
    assert (first["failed_at"], first["error"]) == (None, None)
    assert (second["answered_at"], second["listed_at"]) == (None, None)
    assert second["failed_at"] >= before
    assert "connection refused" in second["error"]["message"]
    # To look is to ask nobody.
    asked = len(nginx.settled_hits())
    assert asked > hits
    await status.status()
    assert len(nginx.settled_hits()) == asked
    nginx.stop()
    await source_set.available()
    first, _ = (await status.status())["sources"]
    assert first["failed_at"] >= first["answered_at"]
    assert first["error"]["code"] == "ClientError"
    nginx.start()
    await source_set.available()
    first, _ = (await status.status())["sources"]
    assert first["error"] is None
    assert first["answered_at"] >= first["failed_at"]


async def test_what_cannot_be_read_hides_nothing_else(status, tmp_path):
    (tmp_path / "imgadm.conf").write_text("{")
    found = await status.status()
    assert found["sources"] == []
    assert [error["code"] for error in found["problems"]] == ["ConfigError"]
    assert len(found["pools"]) == 2


async def test_the_last_failures(status, history):
    uuids = [f"{number:08}{BASE[8:]}" for number in range(FAILURES + 2)]
    begun = [Action("import", uuid, f"image-{uuid[:8]}", "1", "zones") for uuid in uuids]
    for each in begun:
        history.hear(Refused(each, CLIENT, DownloadError("no luck")))
        good = Action("import", BASE, "good", "1", "zones")
        history.hear(Started(good, CLIENT))
        history.hear(Ended(good, "installed"))
    failures = (await status.status())["failures"]
    assert [entry["name"] for entry in failures] == [each.name for each in begun[-FAILURES:]]
    assert {(entry["outcome"], entry["message"]) for entry in failures} == {("failed", "no luck")}


async def test_what_others_are_at_work_on_is_named(catalog, pools, monkeypatch):
    monkeypatch.setattr(pools["tank"], "incoming", lambda: {BASE: 7}, raising=False)
    monkeypatch.setattr(catalog, "unfinished", lambda pool: [MADE] if pool == "tank" else [])
    zones, tank = await states(catalog).all()
    assert zones["unfinished"] == []
    assert tank["unfinished"] == [
        {"uuid": BASE, "why": "receiving", "used": 7},
        {"uuid": MADE, "why": "no manifest", "used": None},
    ]


MADE = "44444444-aaaa-4bbb-8ccc-000000000001"
