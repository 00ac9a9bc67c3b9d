"""The numbered events: real files, and daemons that were killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import aclosing, closing

import pytest
import trio

from imgstored.errors import EventsGoneError, NoSpaceError
from imgstored.events.stream import DaemonChanged, HoldChanged, HookEnded, Requester, SourceChanged
from imgstored.http.secrets import KNOWN
from imgstored.queries import event_log as module
from imgstored.queries.event_log import EventLog, open_event_log


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.sqlite"


def happen(log, *pids):
    for pid in pids:
        log.hear(DaemonChanged(True, "0.1", pid))


async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await trio.sleep(0.01)
    raise AssertionError("it never happened")


async def listed(log, since=0):
    async with aclosing(log.follow(since, on=False)) as events:
        return [(event["number"], event["pid"]) async for event in events]


async def test_each_event_has_a_number_and_a_time(path):
    async with open_event_log(path) as log:
        happen(log, 7)
        (event,) = [event async for event in log.follow(0, on=False)]
        assert event.pop("at").endswith("Z")
        assert event == {"number": 1, "event": "daemon-started", "version": "0.1", "pid": 7}
        log.hear(HookEnded("/bin/true", "ok"))
        assert len(await listed(log)) == 1


async def test_numbers_go_on_in_the_next_daemon(path):
    async with open_event_log(path) as log:
        happen(log, 1, 2)
    async with open_event_log(path) as log:
        happen(log, 3)
        assert await listed(log) == [(1, 1), (2, 2), (3, 3)]
        assert await listed(log, 2) == [(3, 3)]
        assert await listed(log, 3) == []


async def test_who_follows_gets_what_comes_and_is_silent_until_then(path):
    async with open_event_log(path) as log:
        happen(log, 1)
        await log.flush()
        got = []

        async def follow():
            async for event in log.follow():
                got.append(event["pid"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert got == []  # what was before does not come
            for pid in range(2, 5):
                happen(log, pid)
            await until(lambda: got == [2, 3, 4])
            nursery.cancel_scope.cancel()


async def test_many_events_come_in_order_and_once(path):
    count = 3 * module._AT_ONCE + 7
    async with open_event_log(path) as log:
        happen(log, *range(count))
        assert await listed(log) == [(number + 1, number) for number in range(count)]


async def test_what_is_too_old_is_an_error_that_says_where_to_go_on(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 10)
    async with open_event_log(path) as log:
        for pid in range(25):
            happen(log, pid)
            await log.flush()
        assert [number for number, _ in await listed(log)] == [*range(16, 26)]  # 0 is all there is
        assert len(await listed(log, 15)) == 10
        with pytest.raises(
            EventsGoneError, match="after number 14 are no longer kept: those kept are 16 to 25"
        ) as gone:
            await listed(log, 14)
        assert gone.value.data == {"since": 14, "oldest": 16, "newest": 25}
        assert "--since 15" in gone.value.hint


@pytest.mark.parametrize("since", [1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
async def test_a_number_that_no_event_has(path, since):
    """Also one that MessagePack has and SQLite has not."""
    async with open_event_log(path) as log:
        with pytest.raises(EventsGoneError, match=f"no event with number {since}: none is kept"):
            await listed(log, since)


async def test_a_slow_follower_that_is_overtaken_hears_of_it(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 5)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    async with open_event_log(path) as log:
        happen(log, 1, 2, 3)
        async with aclosing(log.follow(0)) as events:
            assert (await anext(events))["number"] == 1
            for pid in range(20):
                happen(log, pid)
                await log.flush()
            assert (await anext(events))["number"] == 2  # was read before
            with pytest.raises(EventsGoneError):
                await anext(events)


async def test_a_number_that_never_was(path):
    async with open_event_log(path) as log:
        with pytest.raises(EventsGoneError, match="there is no event with number 5: none is kept"):
            await listed(log, 5)


_KILLED = """
import sys
from pathlib import Path
import trio
from imgstored.events.stream import DaemonChanged
from imgstored.queries.event_log import open_event_log

async def main():
    async with open_event_log(Path(sys.argv[1])) as log:
        log.hear(DaemonChanged(True, "0.1", 1))
        async for event in log.follow(0):
            print(event["number"], flush=True)
            log.hear(DaemonChanged(True, "0.1", event["number"] + 1))

trio.run(main)
"""


def killed(path):
    """The numbers that were seen of a daemon that was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        seen = [int(daemon.stdout.readline()) for _ in range(20)]
        os.kill(daemon.pid, signal.SIGKILL)
        seen += [int(line) for line in daemon.stdout.read().split()]
    return seen


async def test_a_number_that_was_seen_is_there_after_kill_9(path):
    seen = killed(path)
    assert len(seen) >= 20
    assert seen == [*range(1, len(seen) + 1)]
    async with open_event_log(path) as log:
        kept = await listed(log)
        assert kept[: len(seen)] == [(number, number) for number in seen]
        happen(log, 0)
        assert (await listed(log))[-1] == (len(kept) + 1, 0)


async def test_what_a_full_disk_did_not_take_is_counted(path):
    async with open_event_log(path) as log:
        happen(log, 1)
        await log.flush()
        log._db.execute("PRAGMA max_page_count = 1")
        log.hear(SourceChanged("http://h/" + "x" * 100_000, None))
        await log.flush()
        happen(log, 2)
        await log.flush()
        log._db.execute("PRAGMA max_page_count = 1000000")
        happen(log, 3)
        events = [event async for event in log.follow(0, on=False)]
        assert events[-1]["pid"] == 3
        lost = sum(event.get("lost", 0) for event in events)
        assert lost + sum(event["event"] != "events-lost" for event in events) == 4
        assert lost


async def test_while_it_cannot_be_opened_events_wait(path, monkeypatch):
    def full(*_):
        raise NoSpaceError("there is no room left")

    with monkeypatch.context() as patched:
        patched.setattr("imgstored.queries.ledger.open_database", full)
        log = EventLog(path)
    with closing(log):
        happen(log, 1)
        with pytest.raises(NoSpaceError):
            await listed(log)
        monkeypatch.setattr("imgstored.queries.ledger._PAUSE", 0.01)
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            await until(lambda: log.fault is None)
            assert await listed(log) == [(1, 1)]
            nursery.cancel_scope.cancel()


async def test_a_damaged_row_costs_that_row(path):
    async with open_event_log(path) as log:
        happen(log, 1, 2, 3)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE events SET document = x'00' WHERE number = 2")
        db.commit()
    async with open_event_log(path) as log:
        assert await listed(log) == [(1, 1), (3, 3)]
        happen(log, 4)
        assert (await listed(log))[-1] == (4, 4)


# -- secrets -------------------------------------------------------------------------------------------------


async def test_no_secret_is_written_down(path):
    KNOWN.configure(["k3y-of-a-source"])
    async with open_event_log(path) as log:
        held = HoldChanged(True, "tag", "u", "base", "1.0", "zones", Requester("by k3y-of-a-source", 7))
        log.hear(held)
        (event,) = [event async for event in log.follow(0, on=False)]
        assert event["client"] == "by (hidden)"
    assert all(b"k3y" not in each.read_bytes() for each in path.parent.glob("events.sqlite*"))


async def test_what_an_earlier_daemon_wrote_down_is_told_without_its_secrets(path):
    async with open_event_log(path) as log:
        log.hear(HoldChanged(True, "tag", "u", "base", "1.0", "zones", Requester("by k3y-of-a-source", 7)))
    KNOWN.configure(["k3y-of-a-source"])
    async with open_event_log(path) as log:
        (event,) = [event async for event in log.follow(0, on=False)]
        assert event["client"] == "by (hidden)"
