"""What was done is written down, also by a daemon that is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field

import pytest
import trio

from imgstored.errors import CancelledError, ClientError, ConfigError, DownloadError, ImageNotFoundError
from imgstored.events.stream import Asker, Wanted, asker
from imgstored.queries import history as module
from imgstored.queries.history import Begun, History
from imgstored.queries.names import Named

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
OTHER = "22222222-aaaa-4bbb-8ccc-000000000002"

DELETION = Begun("delete", UUID, "base", "1.0.0", "zones")


@dataclass
class Manifest:
    name: str = "base"
    version: str = "1.0.0"


@dataclass
class FakeLayer:
    """What the history asks of a layer."""

    import_id: str = "0a1b2c3d"
    uuid: str = UUID
    pool: str = "zones"
    source: str | None = "https://user:secret@images.example.com/a?token=secret"
    manifest: Manifest = field(default_factory=Manifest)
    clients: list[str] = field(default_factory=lambda: ["imgctl 1.0 (pid 7)"])
    error: Exception | None = None
    bytes: int = 0
    finished: trio.Event = field(default_factory=trio.Event)

    def done(self):
        return self.bytes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture
def history(path):
    with closing(History(path)) as opened:
        yield opened


async def follow(history, layer, error=None, *, from_file=False, stopping=False):
    """A layer's whole life."""
    layer.bytes, layer.error = 1000, error
    layer.finished.set()
    await history.follow(layer, from_file=from_file, stopping=lambda: stopping)
    (entry,) = await history.entries(layer.uuid, 1)
    return entry


async def test_what_did_not_even_begin(history):
    before = asker.set(Asker("imgctl 1.0 (pid 7)", 1000))
    wanted = Wanted("import", UUID, "zones", import_id="0a1b2c3d")
    await history.refused(wanted, ClientError("https://a:b@c/x: no such host"))
    asker.reset(before)
    (entry,) = await history.entries(UUID, 1)
    assert (entry["action"], entry["outcome"], entry["code"]) == ("import", "failed", "ClientError")
    assert (entry["client"], entry["uid"], entry["source"]) == ("imgctl 1.0 (pid 7)", 1000, None)
    assert (entry["name"], entry["version"], entry["bytes"], entry["seconds"]) == ("", "", None, 0)
    assert entry["import_id"] == "0a1b2c3d"
    assert "a:b" not in entry["message"]


async def test_a_name_is_not_forgotten_when_an_import_did_not_begin(history):
    async with history.doing(DELETION, "deleted"):
        pass
    for uuid in (UUID, OTHER):
        await history.refused(Wanted("import", uuid, "zones"), ImageNotFoundError("nowhere"))
    images = sorted(await history.images(), key=lambda image: image.uuid)
    assert images == [Named(UUID, "base", "1.0.0"), Named(OTHER, "", "")]


async def test_an_import_that_ends_well(history):
    before = asker.set(Asker("imgctl 1.0 (pid 7)", 1000))
    entry = await follow(history, FakeLayer())
    asker.reset(before)
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
    entry = await follow(history, FakeLayer(source=None), error, from_file=True, stopping=stopping)
    assert (entry["action"], entry["source"], entry["outcome"]) == ("install", None, outcome)
    assert entry["code"] == error.code
    assert (entry["client"], entry["uid"]) == ("imgctl 1.0 (pid 7)", None)


async def test_messages_keep_no_secrets(history):
    error = DownloadError('cannot GET "https://me:pw@h.example.com/f?sig=pw#pw": gone')
    assert (await follow(history, FakeLayer(), error))[
        "message"
    ] == 'cannot GET "https://h.example.com/f": gone'


async def test_a_layer_is_followed_to_its_end_also_when_all_is_cancelled(history):
    layer = FakeLayer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: history.follow(layer, from_file=False, stopping=lambda: True))
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
        layer.error = CancelledError("stopping")
        layer.finished.set()
    assert (await history.entries(None, 10))[0]["outcome"] == "interrupted"


async def test_a_deletion(history):
    async with history.doing(DELETION, "deleted"):
        (entry,) = await history.entries(None, 10)
        assert (entry["action"], entry["outcome"], entry["seconds"]) == ("delete", None, None)
    with pytest.raises(DownloadError):
        async with history.doing(DELETION, "deleted"):
            raise DownloadError("no")
    with trio.CancelScope() as scope:
        async with history.doing(DELETION, "deleted"):
            scope.cancel()
            await trio.sleep_forever()
    assert [entry["outcome"] for entry in await history.entries(UUID, 10)] == [
        "deleted",
        "failed",
        "cancelled",
    ]


async def test_the_newest_are_listed_and_kept(history, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    for number in range(9):
        async with history.doing(Begun("import", UUID if number % 2 else OTHER, "n", str(number), "zones")):
            pass
    assert [entry["version"] for entry in await history.entries(None, 3)] == ["6", "7", "8"]
    assert [entry["version"] for entry in await history.entries(OTHER, 100)] == ["4", "6", "8"]
    assert [entry["version"] for entry in await history.entries(None, 100)] == list("45678")
    assert await history.entries(None, -1) == []
    assert sorted(await history.images(), key=lambda image: image.uuid) == [
        Named(UUID, "n", "7"),
        Named(OTHER, "n", "8"),
    ]


KILLED = """
import os, sys, trio
from pathlib import Path
from imgstored.queries.history import Begun, History

async def main():
    history = History(Path(sys.argv[1]))
    async with history.doing(Begun("import", "{uuid}", "done", "1", "zones"), "installed"):
        pass
    async with history.doing(Begun("import", "{uuid}", "killed", "1", "zones"), "installed"):
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
        async with history.doing(Begun("delete", UUID, "n" * 1000, "1", "zones")):
            pass
    assert len(await history.entries(None, 1000)) < 200


def test_nobody_else_may_read_it(history, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_none_is_refused_with_what_to_do(path):
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError) as caught:
        History(path)
    assert "move the file away" in caught.value.hint


async def test_the_file_of_the_first_version_is_read_on(history, path):
    async with history.doing(DELETION, "deleted"):
        pass
    history.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("ALTER TABLE history DROP COLUMN import_id; PRAGMA user_version = 1;")
    with closing(History(path)) as again:
        await follow(again, FakeLayer())
        assert [entry["import_id"] for entry in await again.entries(None, 10)] == [None, "0a1b2c3d"]


def test_the_file_of_a_newer_daemon_is_refused(history, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="schema 99"):
        History(path)
