"""Who wants an import, what its watchers see, and how it ends."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import pytest
import trio
from msgspec.structs import replace

from imgstored.errors import CancelledError, DownloadError, NoSpaceError, PoolError
from imgstored.events.request import ClientRequest
from imgstored.events.stream import Ended, EventStream, ImportEvent, Requester, Started
from imgstored.imports.free_space import Claim
from imgstored.imports.import_ import MAX_NOTES, Import
from imgstored.imports.spec import ImportSpec
from imgstored.manifest import load
from imgstored.pools.base import Space
from imgstored.pools.embedded import EmbeddedPool
from imgstored.queries.dry_run import DryRun
from tests.imports.house import TESTER, open_house, pages, until
from tests.support.events import Downloaded, Note
from tests.support.image_site import BASE, DATA, INCREMENTAL, fixture_file, fixture_manifest
from tests.support.limits import import_limits

__all__ = ["open_house", "pages"]


@pytest.fixture
def events():
    return EventStream()


@pytest.fixture
def make(events):
    manifest = load(json.loads((DATA / "base.imgmanifest").read_bytes()), rules="import")
    resources = SimpleNamespace(catalog=SimpleNamespace(pool=lambda _: None))

    def made(origin=None):
        spec = ImportSpec(BASE, "zones")
        return Import(
            spec, manifest, [], resources=resources, events=events, import_id="0a1b2c3d", origin=origin
        )

    return made


async def test_the_last_to_leave_cancels_it(make):
    wanted = make()
    wanted.join("a", "first")
    wanted.join("b", "second")
    assert wanted.clients == ["first", "second"]
    wanted.leave("a")
    wanted.leave("nobody")
    assert not wanted._scope.cancel_called
    wanted.leave("b")
    assert wanted._scope.cancel_called


def test_its_start_is_published_and_it_wants_its_origin(make, events):
    heard = []
    events.subscribe(heard.append)
    base = make()
    top = make(origin=base)
    top.begin(TESTER)
    assert heard == [Started(top.action, TESTER)]
    assert base.clients == [f"image {BASE}"]
    assert list(top.chain()) == [top, base]


async def heard_by(request):
    request.end()
    return [event async for event in request]


async def test_who_follows_late_hears_what_was_said_and_nothing_twice(make, events):
    wanted = make()
    wanted._emit(Note("early"))
    request, late = ClientRequest("test"), ClientRequest("late")
    for _ in range(2):
        wanted.follow(request)
    wanted._emit(Downloaded(BASE, 10))
    events.unsubscribe(request.hear, wanted.action)
    wanted.replay(late)
    wanted._emit(Note("late"))
    assert await heard_by(request) == [Note("early"), Downloaded(BASE, 10)]
    assert await heard_by(late) == [Note("early"), Downloaded(BASE, 10)]


def test_notes_are_bounded(make, events):
    wanted, heard = make(), []
    events.subscribe(heard.append, wanted.action)
    for number in range(3 * MAX_NOTES):
        wanted._note(str(number))
    wanted._emit(Downloaded(BASE, 10))
    assert len(heard) == MAX_NOTES + 1
    assert all(isinstance(event, ImportEvent) for event in heard)


# -- ends ----------------------------------------------------------------------------------------------------


class Heard(list):
    """What a house publishes of starts and ends."""

    def __init__(self, house):
        super().__init__()
        house.events.subscribe(self.hear)

    def hear(self, event):
        if isinstance(event, Started | Ended):
            self.append(event)

    def ends(self):
        return {event.action.uuid: event for event in self if isinstance(event, Ended)}


async def test_each_import_has_one_start_and_one_end(open_house, nginx):
    async with open_house() as house:
        heard = Heard(house)
        await house.all_events(INCREMENTAL)
    assert [type(event) for event in heard] == [Started, Started, Ended, Ended]
    assert {event.requester for event in heard[:2]} == {TESTER}
    assert [event.action.uuid for event in heard] == [BASE, INCREMENTAL, BASE, INCREMENTAL]
    end = heard[-1]
    assert (end.outcome, end.error, end.size) == ("installed", None, 537_128)
    assert sum(end.fetched.values()) >= 537_128
    assert dict(end.stages)["pool"] > 0
    assert end.action.source == nginx.url


@pytest.mark.parametrize(
    ("error", "outcome", "kept"),
    [(NoSpaceError("full"), "failed", 1), (DownloadError("lost"), "failed", 1)],
    ids=["no room", "a server"],
)
async def test_an_import_that_fails(open_house, monkeypatch, error, outcome, kept):
    def fail(*_, **__):
        raise error

    async with open_house() as house:
        heard = Heard(house)
        monkeypatch.setattr(house.pool, "publish", fail)
        with pytest.raises(type(error)):
            await house.all_events(BASE)
        end = heard.ends()[BASE]
        assert (end.outcome, end.error) == (outcome, error)
        assert house.pool.partials() == []
        # What was downloaded serves the next try; nothing goes on by itself.
        assert len(list(house.spools.iterdir())) == kept
        assert [each.wanted for each in house.journal.imports()] == [False] * kept


@pytest.mark.parametrize("stopping", [True, False], ids=["daemon stops", "nobody wants it"])
async def test_a_partial_is_kept_when_the_daemon_stops_and_no_other_time(open_house, monkeypatch, stopping):
    """Where that is decided: `imgstored.imports.state.KEPT`."""
    received, go_on = trio.Event(), []

    async with open_house() as house:
        receive = house.pool.receive

        def slowly(uuid, blocks, **settings):
            def pieces():
                for block in blocks:
                    yield block
                    trio.from_thread.run_sync(received.set)
                    trio.from_thread.run(until, lambda: bool(go_on))

            return receive(uuid, pieces(), **settings)

        monkeypatch.setattr(house.pool, "receive", slowly)
        heard = Heard(house)
        async with house.imports.request([BASE], requester=Requester("client")):
            await received.wait()
            if stopping:
                house.imports.stop()
            go_on.append(True)
        await until(heard.ends)
        end = heard.ends()[BASE]
        assert (end.outcome, type(end.error)) == ("interrupted" if stopping else "cancelled", CancelledError)
        assert house.pool.partials() == ([BASE] if stopping else [])
        assert [each.wanted for each in house.journal.imports()] == [stopping]
        assert house.imports.jobs() == []


async def test_an_image_larger_than_the_pool_has_room_for(open_house, monkeypatch, nginx):
    """It is refused at once the next time, with the numbers, and nothing comes twice."""
    room, taken = [7 << 19], [0]
    async with open_house(limits=import_limits(min_free=1 << 20)) as house:
        receive = house.pool.receive

        def counted(uuid, blocks, **settings):
            def pieces():
                for block in blocks:
                    taken[0] += len(block)
                    yield block

            try:
                return receive(uuid, pieces(), **settings)
            finally:
                taken[0] = 0

        monkeypatch.setattr(house.pool, "receive", counted)
        monkeypatch.setattr(house.pool, "space", lambda: Space(1 << 40, room[0] - taken[0]))
        # The spool has room.
        monkeypatch.setattr(EmbeddedPool, "storage", "another disk")

        with pytest.raises(NoSpaceError, match=r"[12]\.\d MiB came, and more is to come"):
            await house.all_events(BASE)
        assert len(list(house.spools.iterdir())) == 1
        needed = house.journal.needed("zones", BASE)
        assert 2 << 20 < needed < 7 << 19
        hits = len(nginx.settled_hits())

        numbers = rf"{needed / (1 << 20):.1f} MiB to come, 3.5 MiB free .*an earlier try took as much"
        with pytest.raises(NoSpaceError, match=numbers):
            await house.all_events(BASE)
        assert len(list(house.spools.iterdir())) == 1
        assert not any(hit.path.endswith("/file") for hit in nginx.settled_hits()[hits:])
        dry = DryRun(house.catalog, house.refresh, house.sources, house.imports, house.resources)
        assert [refusal["code"] for refusal in (await dry.plan(BASE))["refusals"]] == ["NoSpace"]

        room[0] = 1 << 30
        assert (await house.all_events(BASE))[-1]["event"] == "installed"
        assert not any(hit.path.endswith("/file") for hit in nginx.settled_hits()[hits:])
        assert house.left() == []


@pytest.mark.parametrize(("size", "said"), [(1, False), ("1", False), (1 << 40, True), (str(1 << 40), True)])
async def test_a_volume_that_may_not_fit_is_said_and_tried(open_house, pages, size, said):
    other = "11111111-aaaa-4bbb-8ccc-00000000000a"
    pages.add(fixture_manifest(BASE) | {"uuid": other, "image_size": size}, fixture_file(BASE))
    async with open_house() as house:
        events = [event for event in await house.all_events(other) if event["event"] != "progress"]
    assert events[-1]["event"] == "installed"
    assert any("it may not fit" in str(event) for event in events) == said


async def test_limits_may_change_while_it_downloads(open_house, monkeypatch):
    async with open_house() as house:
        expect = Claim.expect

        def changing(self, to_come, *, exact=False):
            """Called by each request of the download, in its thread, and by the pool's."""
            limits = replace(house.resources.limits, imports=9)
            trio.from_thread.run_sync(house.resources.reconfigure, limits)
            return expect(self, to_come, exact=exact)

        monkeypatch.setattr(Claim, "expect", changing)
        assert house.resources.download_slots.total_tokens != 9
        events = [event for event in await house.all_events(BASE) if event["event"] != "progress"]
        assert house.resources.download_slots.total_tokens == 9
        assert house.resources.receive_slots.total_tokens == 18
        assert events[-1]["event"] == "installed"


async def test_a_receive_that_fails_gives_its_room_back_at_once(open_house, monkeypatch):
    """Not when what it left is collected: that may be while the lock is had that it would take."""
    given = []

    def receive(self, uuid, blocks, **_):
        given.append(blocks)
        next(iter(blocks))
        raise PoolError("the disk fails")

    monkeypatch.setattr(EmbeddedPool, "receive", receive)
    async with open_house() as house:
        with pytest.raises(PoolError, match="the disk fails"):
            await house.all_events(BASE)
        assert [inspect.getgeneratorstate(each) for each in given] == [inspect.GEN_CLOSED]
