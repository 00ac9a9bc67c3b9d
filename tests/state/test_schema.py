"""Databases that cannot be opened: what is said of them, and whether a later start may help."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from imgstored.errors import ConfigError, NoSpaceError, PoolError
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.database import Layout, failure, open_database
from tests.support.full import small

PAGE = 4096


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("left", [0, 1, 4, 8, 12], ids="{} pages left".format)
def test_a_database_on_a_full_disk_is_no_wrong_configuration(tmp_path, left):
    with small(tmp_path / "state") as folder:
        file, aside = folder / "some.sqlite", Aside(folder / DAMAGED)
        layout = Layout("CREATE TABLE some (id INTEGER);", {}, lost="all")
        open_database(file, layout, aside).close()
        with (folder / "ballast").open("wb", buffering=0) as ballast:
            while (status := os.statvfs(folder)).f_bavail * status.f_frsize > left * PAGE:
                ballast.write(bytes(PAGE))
        much = Layout(layout.create, {}, lost="all", then="INSERT INTO some SELECT randomblob(40000)")
        with pytest.raises(NoSpaceError, match="no room left") as caught:
            open_database(file, much, aside)
        assert "free space on its file system" in caught.value.hint
        assert aside.found() == []
        (folder / "ballast").unlink()
        open_database(file, much, aside).close()


def test_a_disk_that_fails_is_no_damage(tmp_path):
    """What cannot be read now may be read later: it is not thrown away."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    said = failure(error, tmp_path / "some.sqlite")
    assert type(said) is PoolError
    assert "disk I/O error" in said.message


def test_an_error_of_python_itself_has_no_number(tmp_path):
    assert type(failure(sqlite3.OperationalError("Could not decode"), tmp_path / "x")) is PoolError


def test_permissions_are_a_matter_of_who_starts_it(tmp_path):
    assert isinstance(failure(PermissionError(13, "Permission denied"), tmp_path / "x"), ConfigError)


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_a_folder_beside_a_database_is_set_aside(tmp_path, ending):
    file, aside = tmp_path / "some.sqlite", Aside(tmp_path / DAMAGED)
    layout = Layout("CREATE TABLE some (id INTEGER);", {}, lost="all")
    with closing(open_database(file, layout, aside)) as db:
        db.execute("INSERT INTO some VALUES (1)")
    (tmp_path / f"some.sqlite{ending}").mkdir()
    with closing(open_database(file, layout, aside)) as db:
        assert db.execute("SELECT id FROM some").fetchall() == [(1,)]
    assert [damage.why for damage in aside.found()] == ["it is not a regular file"]
