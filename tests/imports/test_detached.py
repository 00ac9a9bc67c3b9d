"""Imports that nobody waits for, and those that an earlier daemon left."""

from __future__ import annotations

import pytest
import trio

from imgstored.errors import CancelledError, ImageNotInstalledError, UsageError
from imgstored.events.stream import HoldChanged, PhaseChanged, Requester
from imgstored.imports import manager as module
from tests.imports.house import TESTER, open_house, pages, until
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.lock_holder import LockHolder
from tests.support.slow_pool import SlowPool

__all__ = ["open_house", "pages"]


async def detached(house, *uuids, **settings):
    async with house.imports.detached(uuids, requester=TESTER, **settings) as request:
        return [event["event"] async for event in request]


async def test_it_goes_on_without_its_client_and_brings_its_origin(open_house, tmp_path):
    async with open_house() as house:
        with LockHolder(tmp_path / "state" / "locks", BASE) as imgadm:
            events = await detached(house, INCREMENTAL, ZVOL)
            assert "importing" in events
            jobs = {job["uuid"]: job["clients"] for job in house.imports.jobs()}
            assert jobs[INCREMENTAL] == ["test, detached"]
            assert {each.spec.uuid for each in house.journal.imports() if each.wanted} >= {INCREMENTAL}
            imgadm.release()
        await until(lambda: len(house.catalog.all()) == 3)
        assert house.left() == []
        assert await detached(house, INCREMENTAL) == ["already-installed"]


async def test_who_joins_and_leaves_does_not_end_it_and_cancel_does(open_house, tmp_path):
    async with open_house() as house:
        with LockHolder(tmp_path / "state" / "locks", BASE):
            await detached(house, BASE)
            async with house.imports.request([BASE], requester=Requester("other")):
                await until(lambda: len(house.imports.jobs()[0]["clients"]) == 2)
            assert [job["clients"] for job in house.imports.jobs()] == [["test, detached"]]
            ended = []

            async def wait():
                try:
                    async with house.imports.watch(BASE) as request:
                        async for event in request:
                            ended.append(event["event"])
                except CancelledError as error:
                    ended.append(error.message)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until(lambda: "progress" in ended)
                await house.imports.cancel(BASE)
            assert "it was cancelled" in ended[-1]
            assert house.imports.jobs() == []
            assert [each.wanted for each in house.journal.imports()] == [False]


async def test_what_fails_before_it_begins_is_said_to_who_asked(open_house):
    async with open_house() as house:
        unknown = BASE.replace("11111111", "99999999")
        with pytest.raises(Exception, match="not found"):
            await detached(house, unknown)
        assert house.imports.jobs() == []


async def test_there_is_a_bound(open_house, monkeypatch):
    monkeypatch.setattr(module, "MAX_DETACHED", 1)
    async with open_house() as house:
        with pytest.raises(UsageError, match="0 imports are under way"):
            await detached(house, BASE, ZVOL)
        await detached(house, BASE)
        await until(lambda: not house.imports.jobs())


async def test_it_goes_on_in_the_next_daemon(open_house, nginx, tmp_path):
    (tmp_path / "state" / "locks").mkdir(parents=True)
    with LockHolder(tmp_path / "state" / "locks", BASE):
        async with open_house() as house:
            await detached(house, BASE)
        nginx.stop()
        async with open_house() as house, house.imports.watch(BASE) as request:
            # Its source does not answer: it is not forgotten.
            async for event in request:
                if event["event"] == "note":
                    assert event["text"].startswith("the import waits, and is tried again: ")
                    break
            (job,) = house.imports.jobs()
            assert (job["uuid"], job["name"], job["version"]) == (BASE, "base", "1.0.0")
            assert (job["phase"], job["pool"]) == ("waiting", "zones")
            assert job["error"] is not None
            assert "connection refused" in job["error"]
        nginx.start()
        async with open_house() as house:
            await until(lambda: house.imports.jobs() != [])
            await house.imports.cancel(BASE)
        async with open_house() as house:
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert house.imports.jobs() == []


async def test_one_that_waits_to_be_tried_again_is_cancelled(open_house, nginx, tmp_path):
    (tmp_path / "state" / "locks").mkdir(parents=True)
    with LockHolder(tmp_path / "state" / "locks", BASE):
        async with open_house() as house:
            await detached(house, BASE)
        nginx.stop()
        async with open_house() as house:
            await house.imports.cancel(BASE)
            with pytest.raises(ImageNotInstalledError):
                await house.imports.cancel(BASE)
            async with house.imports.watch(BASE) as request:
                with pytest.raises(ImageNotInstalledError):
                    await anext(request)
            assert [each.wanted for each in house.journal.imports()] == [False]


@pytest.mark.parametrize("leaves", [False, True], ids=["installs", "leaves"])
async def test_one_that_waits_ends_with_the_import_of_a_client(open_house, nginx, tmp_path, leaves):
    (tmp_path / "state" / "locks").mkdir(parents=True)
    with LockHolder(tmp_path / "state" / "locks", BASE) as holder:
        async with open_house() as house:
            await detached(house, BASE)
        nginx.stop()
        async with open_house() as house:
            await until(lambda: any(job["error"] for job in house.imports.jobs()))
            assert not house.imports.busy
            nginx.start()
            if leaves:
                async with house.imports.request([BASE], requester=TESTER) as request:
                    await anext(request)
                    await until(lambda: house.imports.busy)
            else:
                holder.release()
                await house.all_events(BASE)
                with pytest.raises(UsageError, match="is installed"):
                    await house.imports.cancel(BASE)
            await until(lambda: house.imports.jobs() == [])
            # And not only for a moment.
            await until(lambda: not house.imports._waiting)


async def test_phases_and_holds_are_published(open_house):
    heard = []
    async with open_house(heard=heard.append) as house:
        await house.all_events(BASE)
        await house.images.hold(BASE, "web", None, TESTER)
        async with house.images.holding(BASE, None, requester=Requester("vm", 7)) as request:
            tag = (await anext(request))["tag"]
        await house.images.release(BASE, "web", None, TESTER)
    phases = [event.phase for event in heard if isinstance(event, PhaseChanged)]
    assert phases == ["downloading", "receiving", "installing", "installed"]
    holds = [event for event in heard if isinstance(event, HoldChanged)]
    assert [(each.held, each.tag, each.requester.client) for each in holds] == [
        (True, "web", "test"),
        (True, tag, "vm"),
        (False, tag, "vm"),
        (False, "web", "test"),
    ]
    assert {(each.uuid, each.name, each.version, each.pool) for each in holds} == {
        (BASE, "base", "1.0.0", "zones")
    }


@pytest.mark.slow
async def test_watchers_hear_nothing_while_there_is_nothing(open_house):
    async with open_house(kind=SlowPool) as house, house.imports.watch(None) as request:
        with trio.move_on_after(1.0):
            await anext(request)
            raise AssertionError("nothing happened")
        await detached(house, BASE)
        events = []
        async for event in request:
            events.append(event)
            if event["event"] == "progress" and not event["images"]:
                break
        assert any(event["event"] == "installed" for event in events)
        with trio.move_on_after(1.0):
            await anext(request)
            raise AssertionError("nothing more happened")
