"""A daemon that was killed, and a newer one that goes on with what it left."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from imgstored.state.schema import SCHEMA
from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import until
from tests.state.older import BASE, RANGE, TINY, left_behind
from tests.support.daemon import Daemon
from tests.support.image_site import DATA


@pytest.mark.parametrize("name", ["state-1-journal", "state-1-history", "state-2"])
def test_an_import_that_an_older_daemon_began_goes_on(served, tmp_path, name):
    folder = tmp_path / "store"
    folder.mkdir()
    left_behind(name, folder / "state")
    with Daemon(folder, config=static_source(served.url)) as daemon:
        assert TINY in daemon.imgctl("list").stdout
        until(lambda: BASE in daemon.imgctl("list").stdout, seconds=30)
        until(lambda: served.bytes_sent() > 0)
        # What the older one had is not fetched again.
        size = (DATA / "base.zfs.gz").stat().st_size
        assert served.bytes_sent() <= size - RANGE
        # Of one that was installed before there were receipts, there is nothing to compare with.
        told = daemon.imgctl("verify").stdout.splitlines()[-1]
        assert told.endswith("1 ok, 1 unknown" if name == "state-1-journal" else "2 ok")
        with daemon.client() as client:
            done = [(entry["uuid"], entry["outcome"]) for entry in client.history()]
        before = [] if name == "state-1-journal" else [(TINY, "installed"), (BASE, "interrupted")]
        assert ("goes on with a receive" in daemon.log.read_text()) == (name == "state-2")
        assert done == [*before, (BASE, "installed")]
        assert daemon.stop() == 0
    for database in ("journal", "history"):
        with closing(sqlite3.connect(folder / "state" / f"{database}.sqlite")) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def test_what_an_older_daemon_hashed_with_blake3_is_fetched_again_without_it(served, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    left_behind("state-2", folder / "state")
    with Daemon(folder, config=static_source(served.url), without=["blake3"]) as daemon:
        until(lambda: BASE in daemon.imgctl("list").stdout, seconds=30)
        assert served.bytes_sent() >= (DATA / "base.zfs.gz").stat().st_size
        assert daemon.imgctl("verify").stdout.splitlines()[-1].endswith("2 ok")
        log = daemon.log.read_text()
        assert "downloads ranges again: what their hashes were made with is not installed" in log
        assert "a receive cannot go on: what its checkpoint was hashed with is not installed" in log
        assert "goes on with a receive" not in log
        assert daemon.stop() == 0


def test_a_folder_of_a_newer_daemon_is_refused_with_what_to_do(daemon):
    assert daemon.stop() == 0
    (daemon.folder / "state" / "version").write_text('{"schema": 99, "imgstored": "9.8"}')
    with pytest.raises(RuntimeError, match=r"made by imgstored 9\.8 \(schema 99\)"):
        daemon.start()


def test_a_damaged_journal_is_kept_aside_and_told(daemon, served):
    daemon.imgctl("import", BASE, check=True)
    assert daemon.stop() == 0  # or else SQLite would read what is in its write-ahead log, and miss nothing
    journal = daemon.folder / "state" / "journal.sqlite"
    journal.write_bytes(b"this is not SQLite at all. " * 500)
    daemon.start()
    assert BASE in daemon.imgctl("list").stdout
    assert "something was damaged, and is set aside" in daemon.log.read_text()
    (aside,) = (journal.parent / "damaged").glob("journal.sqlite-*[0-9]")
    assert aside.read_bytes().startswith(b"this is not SQLite")
    assert f"warn  state          {journal} was damaged: " in daemon.imgctl("doctor").stdout
    assert f"{journal} was damaged: " in daemon.imgctl("status").stdout
    daemon.imgctl("delete", BASE, check=True)
    daemon.imgctl("import", BASE, check=True)
