"""What is written down outlives the daemon; what another version wrote is not touched."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing

import pytest

from imgstored.errors import ConfigError
from imgstored.hashing import BLAKE2B, BLAKE3, Fingerprint
from imgstored.imports.journal import Journal
from imgstored.imports.spec import ImportSpec
from imgstored.state.schema import SCHEMA

UUID = "44444444-aaaa-4bbb-8ccc-000000000001"
OTHER = "44444444-aaaa-4bbb-8ccc-000000000002"


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


def test_what_is_no_journal_is_named(path):
    path.write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(ConfigError, match=r"journal\.sqlite"):
        Journal(path)


def test_only_the_daemon_may_read_it(journal, path):
    assert path.stat().st_mode & 0o777 == 0o600
