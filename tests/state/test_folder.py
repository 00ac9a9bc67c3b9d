"""Whose the state folder is, of which schema, and what happens to what is damaged."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from imgstored import __version__
from imgstored.errors import ConfigError
from imgstored.hashing import BLAKE3
from imgstored.imports.journal import Journal
from imgstored.queries.history import History
from imgstored.state.damage import DAMAGED, MAX_KEPT, Aside, kept
from imgstored.state.folder import ALIASES, owned
from imgstored.state.schema import HISTORY, JOURNAL, SCHEMA, Version, read_version
from tests.state.older import BASE, left_behind
from tests.support.full import small

OLDER = ["state-1-journal", "state-1-history", "state-2"]


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def opened(state):
    """What a daemon does with the folder first."""
    with owned(state) as folder:
        Journal(folder / JOURNAL).close()
        History(folder / HISTORY).close()


def written_version(state):
    assert b'"check"' in (state / "version").read_bytes()
    return read_version(state)


def user_version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def schema_of(path):
    """Tables with their columns, without comments and line breaks."""
    with closing(sqlite3.connect(path)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
        return {name: db.execute(f"PRAGMA table_info({name})").fetchall() for name in tables}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_says_of_which_version_it_is(state):
    opened(state)
    assert written_version(state) == Version(SCHEMA, __version__, checked=True)
    assert (state / "version").stat().st_mode & 0o777 == 0o600
    assert [user_version(state / name) for name in (JOURNAL, HISTORY)] == [SCHEMA, SCHEMA]


@pytest.mark.parametrize("name", OLDER)
def test_an_older_folder_becomes_what_a_new_one_is(tmp_path, state, name):
    left_behind(name, state)
    opened(state)
    opened(tmp_path / "new")
    for database in (JOURNAL, HISTORY):
        assert user_version(state / database) == SCHEMA
        assert schema_of(state / database) == schema_of(tmp_path / "new" / database)
    assert json.loads((state / "version").read_text())["schema"] == SCHEMA


async def test_nothing_is_lost_on_the_way(state):
    left_behind("state-1-history", state)
    journal = Journal(state / JOURNAL)
    (unfinished,) = journal.imports()
    assert (unfinished.spec.uuid, unfinished.wanted) == (BASE, True)
    with journal.transaction() as db:
        ((manifest,),) = db.execute("SELECT manifest FROM imports").fetchall()
    assert json.loads(manifest)["name"] == "base"
    known = journal.ranges(f"zones-{BASE}").load()
    assert known is not None
    assert [(index, each.algorithm) for index, each in known.fingerprints.items()] == [(0, BLAKE3)]
    journal.close()
    history = History(state / HISTORY)
    first, second = await history.entries(None, 10)
    history.close()
    assert (first["name"], first["outcome"], first["import_id"]) == ("tiny", "installed", None)
    assert (second["uuid"], second["outcome"]) == (BASE, "interrupted")


async def test_a_step_that_fails_leaves_the_database_as_it_was_and_its_rows_go_on(state):
    left_behind("state-1-history", state)
    with closing(sqlite3.connect(state / HISTORY)) as db:
        db.execute("ALTER TABLE history ADD COLUMN import_id TEXT")  # as if somebody had been at it
    aside = Aside(state / DAMAGED)
    with closing(History(state / HISTORY, aside)) as history:
        assert [entry["name"] for entry in await history.entries(None, 10)][:1] == ["tiny"]
    (damage,) = aside.found()
    assert "duplicate column" in damage.why
    assert damage.kept is not None
    assert user_version(damage.kept) == 1


def test_a_newer_folder_is_refused_and_left_alone(state):
    opened(state)
    (state / "version").write_text(json.dumps({"schema": SCHEMA + 1, "imgstored": "9.8"}))
    before = contents(state)
    with pytest.raises(ConfigError) as caught, owned(state):
        pass
    assert "was made by imgstored 9.8" in caught.value.message
    assert f"this is imgstored {__version__}" in caught.value.message
    assert "start the newer imgstored" in caught.value.hint
    assert contents(state) == before


@pytest.mark.parametrize("kind", [Journal, History])
def test_a_newer_database_is_refused_and_left_alone(tmp_path, kind):
    path = tmp_path / (JOURNAL if kind is Journal else HISTORY)
    kind(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer imgstored"):
        kind(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("written", ["", "{", "[]", '{"schema": "x"}', '{"schema": 1}', "\0" * 5000])
def test_a_version_that_cannot_be_read_is_written_anew(state, written):
    left_behind("state-1-history", state)
    (state / "version").write_text(written)
    opened(state)
    assert written_version(state) == Version(SCHEMA, __version__, checked=True)
    assert user_version(state / HISTORY) == SCHEMA


@pytest.mark.parametrize("name", [JOURNAL, HISTORY])
@pytest.mark.parametrize("damage", ["no database", "cut"])
def test_what_is_damaged_is_kept_aside_and_said(state, name, damage, capsys):
    left_behind("state-1-history", state)
    path = state / name
    bad = b"this is not SQLite at all. " * 500 if damage == "no database" else path.read_bytes()[:2000]
    path.write_bytes(bad)
    opened(state)
    (aside,) = kept(state / DAMAGED)
    assert aside.read_bytes() == bad
    assert aside.name.startswith(name)
    assert user_version(path) == SCHEMA
    said = capsys.readouterr().out
    assert "something was damaged, and is set aside" in said
    assert str(aside) in said
    # Once more at the same second: neither replaces the other.
    path.write_bytes(bad)
    opened(state)
    assert len(kept(state / DAMAGED)) == 2


@pytest.mark.parametrize("name", [ALIASES, "version", "receipts/zones.json", "lists/list.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_in_the_place_of_a_file_is_set_aside(state, name, make):
    """A pipe would keep the start waiting for whoever writes to it."""
    opened(state)
    (state / name).parent.mkdir(exist_ok=True)
    (state / name).unlink(missing_ok=True)
    make(state / name)
    aside = Aside(state / DAMAGED)
    with owned(state, aside=aside):
        assert [damage.what for damage in aside.found()] == [str(state / name)]
        assert name == "version" or not os.path.lexists(state / name)


def test_a_journal_with_a_broken_page_is_set_aside(state):
    left_behind("state-1-journal", state)
    path = state / JOURNAL
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    opened(state)
    assert [aside.read_bytes() for aside in kept(state / DAMAGED)] == [bytes(data)]


def test_what_is_set_aside_is_bounded(tmp_path):
    aside = Aside(tmp_path / DAMAGED)
    for number in range(MAX_KEPT + 5):
        path = tmp_path / "entry"
        path.mkdir()
        (path / str(number)).touch()
        aside.move(path, "it is no file", lost="nothing")
        aside.copy(f"row {number}", "its uuid is no text", {"uuid": "\udcff", "digest": b"\xff"}, lost="it")
    there = kept(tmp_path / DAMAGED)
    assert len(there) == MAX_KEPT
    # The newest ones, of which this process says what they were; and none of them twice.
    assert {damage.kept for damage in aside.found()} == {str(path) for path in there}
    assert json.loads(there[-1].read_text())["row"] == {"uuid": "\udcff", "digest": {"hex": "ff"}}


def test_the_folder_is_for_one_daemon(state):
    with owned(state), pytest.raises(ConfigError, match="another imgstored"), owned(state):
        pass


@pytest.mark.parametrize("before", [None, 0o700, 0o755])
def test_others_get_through_it_where_they_shall(state, before):
    if before is not None:
        state.mkdir()
        state.chmod(before)
    with owned(state, passable=True):
        pass
    assert state.stat().st_mode & 0o777 == (0o755 if before == 0o755 else 0o711)
    with owned(state):
        pass


def test_nobody_gets_through_it_otherwise(state):
    opened(state)
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_no_reason_not_to_start(tmp_path):
    """What the folder lacks is made by the next start that finds room."""
    with small(tmp_path / "state") as state:
        opened(state)
        (state / "version").unlink()
        (state / "ballast").touch()
        with (state / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with owned(state) as folder:
            assert folder == state
        assert not (state / "version").exists()
        (state / "ballast").unlink()
        opened(state)
        assert written_version(state).schema == SCHEMA
