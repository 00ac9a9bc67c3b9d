"""What was done is written down, also by a daemon that is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
import trio

from imgstored import lanes
from imgstored.errors import CancelledError, ClientError, ConfigError, DownloadError, ImageNotFoundError
from imgstored.events.stream import Action, Ended, Refused, Requester, Started, outcome_of
from imgstored.http.secrets import KNOWN
from imgstored.queries import history as module
from imgstored.queries.history import History, open_history
from imgstored.queries.names import Named
from imgstored.state.damage import DAMAGED, Aside
from tests.imports.house import until

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
OTHER = "22222222-aaaa-4bbb-8ccc-000000000002"

CLIENT = Requester("imgctl 1.0 (pid 7)", 1000)
SOURCE = "https://user:secret@images.example.com/a?token=secret"


def action(kind="import", uuid=UUID, name="base", version="1.0.0", source=SOURCE, import_id="0a1b2c3d"):
    if kind != "import":
        source = None
    return Action(kind, uuid, name, version, "zones", source, import_id)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture
def history(path):
    with closing(History(path)) as opened:
        yield opened


async def entry_of(history, done, error=None, *, requester=CLIENT, stopping=False):
    """The row of an action, from its start to its end."""
    history.hear(Started(done, requester))
    success = "deleted" if done.kind == "delete" else "installed"
    history.hear(Ended(done, outcome_of(error, success, stopping=stopping), error, 1000))
    return (await history.entries(done.uuid, 1))[0]


def begin(history, name="base", **settings):
    """An action under way."""
    begun = action(name=name, **settings)
    history.hear(Started(begun, CLIENT))
    return begun


async def test_what_did_not_even_begin(history):
    wanted = action(name="", version="", source=None)
    history.hear(Refused(wanted, CLIENT, ClientError("https://a:b@c/x: no such host")))
    (entry,) = await history.entries(UUID, 1)
    assert (entry["action"], entry["outcome"], entry["code"]) == ("import", "failed", "ClientError")
    assert (entry["client"], entry["uid"], entry["source"]) == ("imgctl 1.0 (pid 7)", 1000, None)
    assert (entry["name"], entry["version"], entry["bytes"], entry["seconds"]) == ("", "", None, 0)
    assert entry["import_id"] == "0a1b2c3d"
    assert "a:b" not in entry["message"]


async def test_a_name_is_not_forgotten_when_an_import_did_not_begin(history):
    await entry_of(history, action("delete"))
    for uuid in (UUID, OTHER):
        wanted = action(uuid=uuid, name="", version="")
        history.hear(Refused(wanted, CLIENT, ImageNotFoundError("nowhere")))
    images = sorted(await history.images(), key=lambda image: image.uuid)
    assert images == [Named(UUID, "base", "1.0.0"), Named(OTHER, "", "")]


async def test_an_import_that_ends_well(history):
    entry = await entry_of(history, action())
    assert entry.pop("started_at") > 1e9
    assert 0 <= entry.pop("seconds") < 60
    assert entry == {
        "action": "import",
        "uuid": UUID,
        "name": "base",
        "version": "1.0.0",
        "pool": "zones",
        "source": "https://images.example.com/a",
        "client": "imgctl 1.0 (pid 7)",
        "uid": 1000,
        "bytes": 1000,
        "outcome": "installed",
        "code": None,
        "message": None,
        "import_id": "0a1b2c3d",
    }


@pytest.mark.parametrize(
    ("error", "stopping", "outcome"),
    [
        (DownloadError('GET "https://u:pw@h/f?sig=pw": no pw'), False, "failed"),
        (CancelledError("nobody wants it"), False, "cancelled"),
        (CancelledError("stopping"), True, "interrupted"),
    ],
)
async def test_an_import_that_does_not(history, error, stopping, outcome):
    daemon = Requester("imgstored (after a restart)")
    entry = await entry_of(history, action("install"), error, requester=daemon, stopping=stopping)
    assert (entry["action"], entry["source"], entry["outcome"]) == ("install", None, outcome)
    assert entry["code"] == error.code
    assert (entry["client"], entry["uid"]) == ("imgstored (after a restart)", None)


async def test_a_failure_is_told_until_it_is_done_after_all(history):
    gone = DownloadError("gone")
    await entry_of(history, action(), gone)
    await entry_of(history, action(uuid=OTHER), gone)
    await entry_of(history, action("delete", OTHER), gone)
    assert [entry["uuid"] for entry in await history.failures(5)] == [UUID, OTHER, OTHER]
    await entry_of(history, action())
    assert [entry["uuid"] for entry in await history.failures(5)] == [OTHER, OTHER]
    assert len(await history.failures(1)) == 1
    await entry_of(history, action("delete", OTHER))
    assert await history.failures(5) == []
    await entry_of(history, action(), gone)  # anew
    assert [entry["uuid"] for entry in await history.failures(5)] == [UUID]


async def test_messages_keep_no_secrets(history):
    error = DownloadError('cannot GET "https://me:pw@h.example.com/f?sig=pw#pw": gone')
    entry = await entry_of(history, action(), error)
    assert entry["message"] == 'cannot GET "https://h.example.com/f": gone'


async def test_what_ends_while_the_daemon_stops_is_written_down(path):
    async with open_history(path) as history:
        begun = begin(history)
        history.hear(Ended(begun, "interrupted", CancelledError("stopping")))
    with closing(History(path)) as again:
        assert [entry["code"] for entry in await again.entries(None, 10)] == ["Cancelled"]


async def test_it_is_written_down_without_anybody_asking(path):
    async with open_history(path) as history:
        begin(history)
        with closing(sqlite3.connect(path)) as db:
            await until(lambda: db.execute("SELECT count(*) FROM history").fetchone()[0] == 1)


async def test_a_deletion(history):
    deletion = action("delete")
    history.hear(Started(deletion, CLIENT))
    (entry,) = await history.entries(None, 10)
    assert (entry["action"], entry["outcome"], entry["seconds"]) == ("delete", None, None)
    history.hear(Ended(deletion, "deleted"))
    await entry_of(history, action("delete"), DownloadError("no"))
    await entry_of(history, action("delete"), CancelledError("no"))
    assert [entry["outcome"] for entry in await history.entries(UUID, 10)] == [
        "deleted",
        "failed",
        "cancelled",
    ]


async def test_the_newest_are_listed_and_kept(history, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    for number in range(9):
        await entry_of(history, action(uuid=UUID if number % 2 else OTHER, name="n", version=str(number)))
    assert [entry["version"] for entry in await history.entries(None, 3)] == ["6", "7", "8"]
    assert [entry["version"] for entry in await history.entries(OTHER, 100)] == ["4", "6", "8"]
    assert [entry["version"] for entry in await history.entries(None, 100)] == list("45678")
    assert await history.entries(None, -1) == []
    assert sorted(await history.images(), key=lambda image: image.uuid) == [
        Named(UUID, "n", "7"),
        Named(OTHER, "n", "8"),
    ]


KILLED = """
import trio, sys
from pathlib import Path
from imgstored.events.stream import Action, Ended, Requester, Started
from imgstored.queries.history import open_history

async def main():
    async with open_history(Path(sys.argv[1])) as history:
        done = Action("import", "{uuid}", "done", "1", "zones")
        history.hear(Started(done, Requester("client")))
        history.hear(Ended(done, "installed"))
        history.hear(Started(Action("import", "{uuid}", "killed", "1", "zones"), Requester("client")))
        await history.flush()
        print("begun", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def killed_in_the_middle(path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(uuid=UUID), str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGKILL)


async def test_what_was_going_on_when_the_daemon_was_killed_is_interrupted(path):
    killed_in_the_middle(path)
    with closing(History(path)) as history:
        entries = await history.entries(None, 10)
    assert [(entry["name"], entry["outcome"]) for entry in entries] == [
        ("done", "installed"),
        ("killed", "interrupted"),
    ]
    assert entries[1]["seconds"] is None


async def test_a_full_disk_keeps_nothing_from_being_done(history):
    history._db.execute("PRAGMA max_page_count = 1")
    for _ in range(200):
        deletion = begin(history, "n" * 1000, kind="delete")
        history.hear(Ended(deletion, "deleted"))
    assert len(await history.entries(None, 1000)) < 200


def test_nobody_else_may_read_it(history, path):
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_none_is_set_aside(path):
    path.write_bytes(b"not a database" * 100)
    aside = Aside(path.parent / DAMAGED)
    with closing(History(path, aside)) as history:
        assert await history.entries(None, 10) == []
    assert [damage.what for damage in aside.found()] == [str(path)]


@pytest.mark.parametrize(
    "value",
    [
        "action = x'ff'",
        "name = x'00'",
        "started_at = 'then'",
        "uid = 'root'",
        "bytes = x'01'",
        "seconds = 'x'",
    ],
)
async def test_a_damaged_entry_costs_that_entry(history, path, value):
    for _ in range(3):
        await entry_of(history, action("delete"))
    history.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE history SET {value} WHERE id = 2")
    aside = Aside(path.parent / DAMAGED)
    with closing(History(path, aside)) as again:
        assert len(await again.entries(None, 10)) == 2
        await entry_of(again, action("delete"))
        assert len(await again.entries(None, 10)) == 3
    assert [damage.what for damage in aside.found()] == ["entry 2 in history"]


async def test_text_that_is_none_is_shown_as_far_as_it_can_be(history, path):
    await entry_of(history, action("delete"))
    history.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE history SET name = cast(x'61ff62' as text)")
    with closing(History(path)) as again:
        assert [entry["name"] for entry in await again.entries(None, 10)] == ["a\ufffdb"]


async def test_the_file_of_the_first_version_is_read_on(history, path):
    await entry_of(history, action("delete", import_id=None))
    history.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("ALTER TABLE history DROP COLUMN import_id; PRAGMA user_version = 1;")
    with closing(History(path)) as again:
        await entry_of(again, action())
        assert [entry["import_id"] for entry in await again.entries(None, 10)] == [None, "0a1b2c3d"]


def test_the_file_of_a_newer_daemon_is_refused(history, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="schema 99"):
        History(path)


async def test_what_an_earlier_daemon_wrote_down_is_told_without_its_secrets(path):
    """It did not know that the server's words have one."""
    with closing(History(path)) as history:
        await entry_of(history, action(), ClientError("x"))
    with closing(sqlite3.connect(path)) as db:
        said = "http://h/f: denied: k3y/word, token=abc, http://u:p4ss@h"
        db.execute("UPDATE history SET message = ?, client = 'k3y%2Fword', name = 'k3y/word'", (said,))
        db.commit()
    KNOWN.configure(["k3y/word"])
    with closing(History(path)) as history:
        (entry,) = await history.entries(UUID, 1)
        (failed,) = await history.failures(1)
    assert entry == failed
    assert entry["message"] == "http://h/f: denied: (hidden), token=(hidden), http://h"
    assert (entry["client"], entry["name"]) == ("(hidden)", "(hidden)")


async def test_no_secret_is_written_down(path):
    KNOWN.configure(["k3y/word"])
    with closing(History(path)) as history:
        requester = Requester("me k3y/word", 0)
        await entry_of(
            history, action(name="k3y/word", version="k3y/word"), ClientError("k3y/word"), requester=requester
        )
    assert b"k3y" not in b"".join(each.read_bytes() for each in path.parent.glob(path.name + "*"))


async def test_what_is_done_does_not_wait_for_what_is_read(history, monkeypatch):
    release, reading = threading.Event(), threading.Event()
    entry = module._entry

    def held(row):
        reading.set()
        release.wait(30)
        return entry(row)

    await entry_of(history, action())
    monkeypatch.setattr(module, "_entry", held)
    try:
        async with trio.open_nursery() as nursery:
            with lanes.bound("strangers"):
                for _ in range(20):
                    nursery.start_soon(history.entries, None, 1)
            await until(reading.is_set)
            with trio.fail_after(30):
                done = begin(history, uuid=OTHER)
                history.hear(Ended(done, "installed", None, 1))
                await history.flush()
            release.set()
    finally:
        release.set()
    monkeypatch.setattr(module, "_entry", entry)
    assert (await history.entries(OTHER, 1))[0]["outcome"] == "installed"
