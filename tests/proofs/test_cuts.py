"""Power cuts: the short form of `make cuts`, and the model of a disk that it stands on."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from imgstored.imports.journal import Journal
from tests.proofs.cuts import Cuts, disk_of, kept, recorded, write_out
from tests.proofs.forks import Forks
from tests.proofs.model import BrokenPromiseError
from tests.proofs.recording import SYNCED, Mounted, Recorder
from tests.proofs.world import CLONE, SMALL, image_server


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def disk(recorder, tmp_path):
    with Mounted(recorder, tmp_path / "disk") as mounted:
        yield mounted.place


def left(recorder, tmp_path, *, order="any", share=0.0, moment=None, seed=1):
    """What is on the disk when the power is cut, by name."""
    changes = recorder.changes[:moment]
    nodes = disk_of(kept(changes, len(changes), order, share, random.Random(seed)), changes)
    place = tmp_path / f"left-{random.random()}"
    write_out(nodes, place)
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_a_file_and_its_name_are_two_things(recorder, disk, tmp_path):
    (disk / "file").write_bytes(b"content")
    assert left(recorder, tmp_path) == {}
    assert left(recorder, tmp_path, share=1.0) == {"file": b"content"}
    sync(disk / "file")
    assert left(recorder, tmp_path) == {}
    sync(disk)
    assert left(recorder, tmp_path) == {"file": b"content"}


def test_a_name_without_its_content(recorder, disk, tmp_path):
    (disk / "file").write_bytes(b"content")
    sync(disk)
    assert left(recorder, tmp_path) == {"file": b""}


def test_a_replaced_file_is_the_old_or_the_new_one(recorder, disk, tmp_path):
    (disk / "file").write_bytes(b"old")
    sync(disk / "file")
    sync(disk)
    (disk / "file.new").write_bytes(b"new")
    sync(disk / "file.new")
    (disk / "file.new").rename(disk / "file")
    assert left(recorder, tmp_path) == {"file": b"old"}
    assert left(recorder, tmp_path, share=1.0) == {"file": b"new"}
    sync(disk)
    assert left(recorder, tmp_path) == {"file": b"new"}
    (disk / "file").write_bytes(b"")
    assert left(recorder, tmp_path, share=1.0) == {"file": b""}


def test_a_folder_is_lost_with_all_that_was_synced_in_it(recorder, disk, tmp_path):
    (disk / "folder").mkdir()
    (disk / "folder" / "file").write_bytes(b"content")
    sync(disk / "folder" / "file")
    sync(disk / "folder")
    assert left(recorder, tmp_path) == {}
    sync(disk)
    assert left(recorder, tmp_path) == {"folder": None, "folder/file": b"content"}


def test_all_may_be_synced_at_once(recorder, disk, tmp_path):
    """As syncfs(2) does, of which the kernel does not tell FUSE."""
    (disk / "folder").mkdir()
    (disk / "folder" / "file").write_bytes(b"content")
    os.utime(disk / "folder" / "file", (1, 2))
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(disk, SYNCED)
    assert left(recorder, tmp_path) == {"folder": None, "folder/file": b"content"}
    [file] = tmp_path.glob("left-*/folder/file")
    assert file.stat().st_mtime == 2
    (disk / "later").touch()
    assert "later" not in left(recorder, tmp_path)


def test_names_come_in_order_or_in_any(recorder, disk, tmp_path):
    for name in "abcdefgh":
        (disk / name).touch()
    ordered = {tuple(sorted(left(recorder, tmp_path, order="ordered", share=0.5, seed=n))) for n in range(20)}
    assert len(ordered) > 3
    assert all(found == tuple("abcdefgh"[: len(found)]) for found in ordered)
    anyhow = {tuple(sorted(left(recorder, tmp_path, share=0.5, seed=n))) for n in range(20)}
    assert any(found != tuple("abcdefgh"[: len(found)]) for found in anyhow)


def test_writes_may_be_torn(recorder, disk, tmp_path):
    with (disk / "file").open("wb", buffering=0) as file:
        sync(disk)
        file.write(b"x" * 4096)
    found = {len(left(recorder, tmp_path, share=0.3, seed=seed)["file"]) for seed in range(40)}
    assert {0, 4096} < found


def test_sqlite_works_on_it_and_keeps_what_it_committed(recorder, disk, tmp_path):
    with closing(sqlite3.connect(disk / "db", isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = EXTRA")
        db.execute("CREATE TABLE t (n)")
        sync(disk)
        for number in range(20):
            db.execute("INSERT INTO t VALUES (?)", (number,))
        nodes = disk_of(
            kept(recorder.changes, len(recorder.changes), "any", 0.0, random.Random(1)), recorder.changes
        )
    write_out(nodes, tmp_path / "after")
    with closing(sqlite3.connect(tmp_path / "after" / "db")) as db:
        assert [row[0] for row in db.execute("SELECT n FROM t")] == list(range(20))


#: Two imports begin, and one of them ends; says so on its output, and goes on when it is told to. A process
#: of its own: SQLite maps a file, which would keep this one from serving it.
_IMPORTS = """
import sys
from pathlib import Path
from imgstored.imports.journal import Journal
from imgstored.imports.spec import ImportSpec
journal = Journal(Path(sys.argv[1]))
for uuid in sys.argv[3:]:
    journal.begin(ImportSpec(uuid, "zones"), {"uuid": uuid})
print("begun", flush=True)
sys.stdin.readline()
getattr(journal, sys.argv[2])("zones", sys.argv[3])
print("ended", flush=True)
sys.stdin.readline()
"""


def wanted_after_a_cut(recorder, tmp_path, seed):
    """The uuids of the imports that a journal has as wanted on the disk that a power cut leaves now."""
    nodes = disk_of(
        kept(recorder.changes, len(recorder.changes), "any", 0.7, random.Random(seed)), recorder.changes
    )
    place = tmp_path / f"after-{len(recorder.changes)}-{seed}"
    write_out(nodes, place)
    journal = Journal(place / "journal.sqlite")
    try:
        return [each.spec.uuid for each in journal.imports() if each.wanted]
    finally:
        journal.close()


@pytest.mark.parametrize("ends", ["end", "park"])
def test_what_is_wanted_survives_a_power_cut(recorder, disk, tmp_path, ends):
    """An import that ended would bring back an image that was deleted since."""
    command = [sys.executable, "-c", _IMPORTS, str(disk / "journal.sqlite"), ends, SMALL, CLONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        sync(disk)
        found = [wanted_after_a_cut(recorder, tmp_path, seed) for seed in range(20)]
        assert found == [[SMALL, CLONE]] * 20
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ended\n"
        found = [wanted_after_a_cut(recorder, tmp_path, seed) for seed in range(20)]
        assert found == [[CLONE]] * 20
        process.stdin.write("\n")
        process.stdin.flush()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_power_cuts(tmp_path):
    with image_server(tmp_path / "server") as url, Forks() as forks:
        record = recorded(tmp_path / "run", url, forks, seed=20261129, operations=10)
        cuts = Cuts(tmp_path, url, forks, seed=20261129)
        cuts.run(record, 25, 0)
        assert cuts.disks > 15


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_daemon_that_does_not_sync_is_found_out(tmp_path):
    with image_server(tmp_path / "server") as url, Forks(syncs=False) as forks:
        record = recorded(tmp_path / "run", url, forks, seed=1, operations=6)
        cuts = Cuts(tmp_path, url, forks, seed=1)
        with pytest.raises(BrokenPromiseError, match="clients were told"):
            cuts.run(record, 60, 0)


def test_a_folder_has_a_new_time_when_its_names_change(disk):
    (disk / "one").mkdir()
    (disk / "two").mkdir()
    for change in (
        lambda: (disk / "one" / "file").touch(),
        lambda: (disk / "one" / "file").rename(disk / "two" / "file"),
        lambda: (disk / "two" / "file").unlink(),
    ):
        for folder in ("one", "two"):
            os.utime(disk / folder, ns=(1, 1))
        change()
        assert {(disk / folder).stat().st_mtime_ns == 1 for folder in ("one", "two")} != {True}
