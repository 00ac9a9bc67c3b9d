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


@pytest.mark.parametrize("name", ["state-1-journal", "state-1-history"])
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
        assert daemon.imgctl("verify").returncode == (0 if name == "state-1-history" else 1)
        with daemon.client() as client:
            done = [(entry["uuid"], entry["outcome"]) for entry in client.history()]
        before = [(TINY, "installed"), (BASE, "interrupted")] if name == "state-1-history" else []
        assert done == [*before, (BASE, "installed")]
        assert daemon.stop() == 0
    for database in ("journal", "history"):
        with closing(sqlite3.connect(folder / "state" / f"{database}.sqlite")) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def test_a_folder_of_a_newer_daemon_is_refused_with_what_to_do(daemon):
    assert daemon.stop() == 0
    (daemon.folder / "state" / "version").write_text('{"schema": 99, "imgstored": "9.8"}')
    with pytest.raises(RuntimeError, match=r"made by imgstored 9\.8 \(schema 99\)"):
        daemon.start()
