"""What is written down outlives the daemon; what another version wrote is not touched."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid as uuids
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstored.errors import ConfigError, PoolError
from imgstored.hashing import BLAKE2B, BLAKE3, Fingerprint
from imgstored.imports.journal import Journal
from imgstored.imports.spec import ImportSpec
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.schema import SCHEMA, write_version
from tests.state.older import BASE, left_behind

UUID = "44444444-aaaa-4bbb-8ccc-000000000001"
OTHER = "44444444-aaaa-4bbb-8ccc-000000000002"
THIRD = "44444444-aaaa-4bbb-8ccc-000000000003"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    opened = Journal(path)
    yield opened
    opened.close()


def reopened(journal, path):
    journal.close()
    return Journal(path)


def manifests(path):
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT manifest FROM imports ORDER BY uuid").fetchall()
    return [json.loads(row[0]) for row in rows]


def test_an_import_is_remembered_until_it_ends(journal, path):
    spec = ImportSpec(UUID, "zones", ("https://x",), "dev", zstream=True)
    other = ImportSpec(OTHER, "zones")
    journal.begin(spec, {"uuid": UUID})
    journal.begin(other, {})
    journal.park("zones", OTHER)
    again = reopened(journal, path)
    first, second = again.imports()
    assert (first.spec, first.wanted) == (spec, True)
    assert (second.spec, second.wanted) == (other, False)
    assert manifests(path) == [{"uuid": UUID}, {}]
    again.begin(other, {})
    again.end("zones", UUID)
    assert [(each.spec.uuid, each.wanted) for each in again.imports()] == [(OTHER, True)]
    again.close()


def test_ranges_are_remembered_and_a_new_beginning_forgets_them(journal, path):
    ranges = journal.ranges("zones-x")
    assert ranges.load() is None
    ranges.begin(100, 10)
    ranges.record(3, Fingerprint(BLAKE3, b"d" * 32))
    ranges.record(4, Fingerprint(BLAKE2B, b"e" * 32))
    ranges.remember("http://x", '"1"')
    again = reopened(journal, path)
    known = again.ranges("zones-x").load()
    assert known is not None
    assert (known.size, known.range_size) == (100, 10)
    assert known.fingerprints == {3: (BLAKE3, b"d" * 32), 4: (BLAKE2B, b"e" * 32)}
    assert known.validators == {"http://x": '"1"'}
    assert again.spooled() == {"zones-x"}
    again.ranges("zones-x").begin(100, 20)
    fresh = again.ranges("zones-x").load()
    assert fresh is not None
    assert (fresh.range_size, fresh.fingerprints, fresh.validators) == (20, {}, {})
    again.ranges("zones-x").forget()
    assert again.ranges("zones-x").load() is None
    again.close()


def test_threads_may_write_at_the_same_time(journal):
    ranges = journal.ranges("zones-x")
    ranges.begin(8 * 50, 1)
    threads = [
        threading.Thread(
            target=lambda part=part: [
                ranges.record(part * 50 + i, Fingerprint(BLAKE3, b"x" * 32)) for i in range(50)
            ]
        )
        for part in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = ranges.load()
    assert known is not None
    assert len(known.fingerprints) == 400


def test_a_newer_journal_is_refused_and_left_alone(journal, path):
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer imgstored"):
        Journal(path)
    assert path.read_bytes() == before


# -- damage ------------------------------------------------------------------------------------------------


@pytest.fixture
def aside(tmp_path):
    return Aside(tmp_path / DAMAGED)


def filled(path):
    """A journal with two imports; the second has ranges."""
    journal = Journal(path)
    for uuid in (UUID, OTHER):
        journal.begin(ImportSpec(uuid, "zones", ("http://x",), "dev"), {"uuid": uuid, "name": "x"})
    ranges = journal.ranges(f"zones-{OTHER}")
    ranges.begin(100, 10)
    for index in range(4):
        ranges.record(index, Fingerprint(BLAKE3, bytes([index]) * 32))
    ranges.remember("http://x", '"1"')
    ranges.remember("http://y", '"1"')
    journal.close()


def test_what_is_no_journal_is_set_aside(path, aside):
    path.write_bytes(b"no database at all, but long enough to be one" * 100)
    journal = Journal(path, aside)
    assert journal.imports() == []
    journal.close()
    (damage,) = aside.found()
    assert damage.what == str(path)
    assert damage.kept is not None


#: By column, values that SQLite takes for it, and that no journal has.
WRONG = {
    "imports.pool": ["x'ff'", "'../../etc'", "''", "1"],
    "imports.uuid": ["'x'", "x'ff'", "cast(x'fffe' as text)", "''"],
    "imports.manifest": ["''", "'{'", "'[]'", "x'7b7d'", "cast(x'ff' as text)", "'" + "[" * 50_000 + "'"],
    "imports.sources": ["''", "'{}'", "'[1]'", "x'5b5d'", "7"],
    "imports.channel": ["x'00'", "cast(x'ff' as text)"],
    "imports.wanted": ["'yes'", "x'01'", "0.5"],
    "imports.started_at": ["'now'", "x''", "9e999", "-1"],
    "imports.touched_at": ["'now'", "x''"],
    "imports.zstream": ["'no'"],
    "imports.needed": ["'much'", "x'01'", "-1"],
}


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in WRONG.items() for v in values])
def test_a_damaged_import_costs_that_import(path, aside, column, value):
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        name = column.partition(".")[2]
        db.execute(f"UPDATE imports SET {name} = {value} WHERE uuid = ?", (UUID,))
    journal = Journal(path, aside)
    assert [each.spec.uuid for each in journal.imports()] == [OTHER]
    known = journal.ranges(f"zones-{OTHER}").load()
    assert known is not None
    assert len(known.fingerprints) == 4
    # It can be asked for again, and is not damaged any more.
    journal.begin(ImportSpec(UUID, "zones"), {"uuid": UUID})
    journal.close()
    (damage,) = aside.found()
    assert "the import of image" in damage.what
    assert damage.kept is not None
    assert "manifest" in json.loads(Path(damage.kept).read_text())["row"]
    again = Aside(path.parent / DAMAGED)
    journal = Journal(path, again)
    assert {each.spec.uuid for each in journal.imports()} == {UUID, OTHER}
    journal.close()
    assert again.found() == []
    # Until somebody removes it, it is told.
    assert [error.message for error in again.errors()] == [
        f"set aside by an earlier start: {Path(damage.kept).name}"
    ]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("spools SET size = 'x'", None),
        ("spools SET size = -1", None),
        ("spools SET range_size = 0", None),
        ("spools SET range_size = x'00'", None),
        ("spools SET uuid = cast(x'ff' as text)", None),
        ("ranges SET idx = 'x' WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET idx = -5 WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET digest = 'text' WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET digest = 17 WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET algorithm = x'ff' WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET algorithm = cast(x'ff' as text) WHERE idx = 1", ({0, 2, 3}, 2)),
        ("ranges SET uuid = x'ff' WHERE idx = 1", ({0, 2, 3}, 2)),
        ("validators SET url = x'ff' WHERE url = 'http://y'", ({0, 1, 2, 3}, 1)),
        ("validators SET validator = x'00' WHERE url = 'http://y'", ({0, 1, 2, 3}, 1)),
        ("validators SET validator = cast(x'ff' as text) WHERE url = 'http://y'", ({0, 1, 2, 3}, 1)),
    ],
)
def test_damage_of_a_download_costs_that_part_of_it(path, aside, where, left):
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {where}")
    journal = Journal(path, aside)
    assert {each.spec.uuid for each in journal.imports()} == {UUID, OTHER}
    known = journal.ranges(f"zones-{OTHER}").load()
    if left is None:
        assert known is None
    else:
        assert known is not None
        assert (set(known.fingerprints), len(known.validators)) == left
    # Nothing is in the way of what comes.
    ranges = journal.ranges(f"zones-{OTHER}")
    ranges.begin(100, 10)
    ranges.record(1, Fingerprint(BLAKE3, bytes(32)))
    ranges.forget()
    assert journal.spooled() == set()
    journal.close()
    # Columns with INTEGER affinity make numbers of what looks like one.
    assert len(aside.found()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 3",
        "PRAGMA user_version = 36",
        "ALTER TABLE imports RENAME COLUMN manifest TO manifesu",
        "ALTER TABLE validators RENAME TO validatorr",
        "DROP TABLE validators",
    ],
)
def test_a_damaged_schema_costs_no_import_that_can_be_read(path, aside, statement):
    write_version(path.parent)
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    journal = Journal(path, aside)
    kept = {each.spec.uuid for each in journal.imports()}
    assert kept == (set() if "manifesu" in statement else {UUID, OTHER})
    known = journal.ranges(f"zones-{OTHER}").load()
    assert known is not None
    assert set(known.fingerprints) == {0, 1, 2, 3}
    journal.close()
    assert aside.found()[0].what == str(path)


def test_a_damaged_journal_of_an_older_daemon_costs_the_hashes_at_most(tmp_path):
    """Ranges were hashed without the name of an algorithm then."""
    state = tmp_path / "state"
    left_behind("state-1-journal", state)
    path, aside = state / "journal.sqlite", Aside(state / DAMAGED)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE imports ADD COLUMN zstream INTEGER NOT NULL DEFAULT 0")
    journal = Journal(path, aside)
    (unfinished,) = journal.imports()
    assert (unfinished.spec.uuid, unfinished.spec.zstream, unfinished.wanted) == (BASE, False, True)
    journal.close()
    assert [damage.what for damage in aside.found()] == [str(path)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_byte_may_be_another(tmp_path, data):
    """It opens, and imports that can still be read are there; what it has can be used."""
    folder = tmp_path / uuids.uuid4().hex
    folder.mkdir()
    path, aside = folder / "journal.sqlite", Aside(folder / DAMAGED)
    write_version(folder)
    filled(path)
    content = bytearray(path.read_bytes())
    assert not (folder / "journal.sqlite-wal").exists()
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    journal = Journal(path, aside)
    assert journal.fault is None
    imports = journal.imports()
    for name in journal.spooled():
        journal.ranges(name).load()
        journal.ranges(name).forget()
    for each in imports:
        assert journal.needed(*each.spec.key) >= 0
        journal.end(*each.spec.key)
    for uuid in (UUID, OTHER):
        journal.begin(ImportSpec(uuid, "zones"), {"uuid": uuid})
    assert {UUID, OTHER} <= {each.spec.uuid for each in journal.imports()}
    journal.close()


@pytest.mark.parametrize("place", [18, 19], ids=["writing", "reading"])
def test_a_journal_of_another_format_costs_no_import(path, aside, place):
    """A byte of SQLite's head: it opened, and nothing could be written (the file format, section 1.3.3)."""
    filled(path)
    content = bytearray(path.read_bytes())
    content[place] = 9
    path.write_bytes(content)
    journal = Journal(path, aside)
    assert journal.fault is None
    journal.begin(ImportSpec(THIRD, "zones"), {"uuid": THIRD})
    found = {each.spec.uuid for each in journal.imports()}
    assert found == ({UUID, OTHER, THIRD} if place == 18 else {THIRD})
    journal.close()
    assert [damage.what for damage in aside.found()] == [str(path)]


@pytest.mark.parametrize("schema", [-1, -(1 << 31)])
def test_a_damaged_number_of_the_schema_costs_no_import(path, aside, schema):
    """It took two thousand million steps to the schema of now."""
    filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {schema}")
    journal = Journal(path, aside)
    assert journal.fault is None
    assert {each.spec.uuid for each in journal.imports()} == {UUID, OTHER}
    journal.close()


@pytest.mark.parametrize("table", ["validators", "ranges", "spools"])
@pytest.mark.parametrize("what", ["name", "statement", "both"])
def test_a_damaged_entry_of_the_schema_costs_its_table(path, aside, table, what):
    """SQLite quotes it, and that may be no text."""
    filled(path)
    content = path.read_bytes()
    name = f"table{table}{table}".encode()
    statement = f"CREATE TABLE {table}".encode()
    for old, in_what in ((name, "name"), (statement, "statement")):
        assert content.count(old) == 1
        if what in (in_what, "both"):
            content = content.replace(old, old.replace(table[:2].encode(), b"\xff\xfe"))
    path.write_bytes(content)
    journal = Journal(path, aside)
    assert journal.fault is None
    assert len(aside.found()) == 1
    assert {UUID, OTHER} == {each.spec.uuid for each in journal.imports()}
    journal.close()


def test_text_that_is_damaged_while_the_journal_is_open(journal, path):
    journal.begin(ImportSpec(UUID, "zones", ("https://x",), "dev"), {"uuid": UUID})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE imports SET channel = CAST(X'64ff76' AS TEXT)")
    (unfinished,) = journal.imports()
    assert unfinished.spec.channel == "d\ufffdv"
    journal.end("zones", UUID)
    assert journal.imports() == []


def test_a_failing_disk_is_said_in_words(path):
    """Also one that Python itself refuses, which has no number of SQLite's."""
    journal = Journal(path)

    def broken():
        with journal.transaction():
            raise sqlite3.OperationalError("Could not decode to UTF-8 column 'manifest'")

    with pytest.raises(PoolError, match=r"journal\.sqlite cannot be used: Could not decode"):
        broken()
    assert journal.imports() == []
    journal.close()


def test_only_the_daemon_may_read_it(journal, path):
    assert path.stat().st_mode & 0o777 == 0o600
