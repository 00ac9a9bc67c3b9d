"""The daemon's own folder, and imgadm's."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing

import pytest

from imgstored.doctor import folders
from imgstored.imports.journal import Journal
from imgstored.imports.spec import ImportSpec
from imgstored.pools.embedded import EmbeddedPool
from imgstored.state.damage import DAMAGED
from imgstored.state.schema import JOURNAL
from tests.support.lock_holder import LockHolder
from tests.support.streams import real_stream

UUID = "44444444-aaaa-4bbb-8ccc-000000000001"
OTHER = "44444444-aaaa-4bbb-8ccc-000000000002"


def only(findings):
    (finding,) = findings
    return finding


# -- the state folder ----------------------------------------------------------------------------------------


def test_a_state_folder_to_come_and_one_that_is_there(examined):
    subject = examined()
    assert "the first start creates it" in only(folders.state(subject)).seen
    assert not subject.state.exists()
    subject.state.mkdir()
    assert only(folders.state(subject)).status == "ok"


def test_a_state_folder_that_cannot_be_one(examined):
    subject = examined()
    subject.state.touch()
    finding = only(folders.state(subject))
    assert (finding.status, finding.seen) == ("fail", f"{subject.state} is not a folder")
    assert finding.hint


def test_a_state_folder_of_a_newer_daemon(examined):
    subject = examined()
    subject.state.mkdir()
    (subject.state / "version").write_text(json.dumps({"schema": 99, "imgstored": "9.8"}))
    finding = only(folders.state(subject))
    assert finding.status == "fail"
    assert "made by imgstored 9.8" in finding.seen


def test_a_database_that_was_set_aside_is_told_until_it_is_removed(examined):
    subject = examined()
    aside = subject.state / DAMAGED / f"{JOURNAL}-1795560000"
    aside.parent.mkdir(parents=True)
    for path in (aside, aside.with_name(aside.name + "-wal")):
        path.touch()
    finding = only(folders.state(subject))
    assert finding.status == "warn"
    assert finding.seen == f"damaged, and set aside: {aside.name}"
    aside.unlink()
    assert only(folders.state(subject)).status == "ok"


@pytest.mark.parametrize(("min_free", "status"), [(0, "ok"), (1 << 40, "fail")])
def test_room_for_downloads(examined, min_free, status, monkeypatch):
    monkeypatch.setattr(folders, "LITTLE", 0)
    finding = only(folders.space(examined(f"[limits]\nmin_free_mib = {min_free}\n")))
    assert finding.status == status
    assert "free in" in finding.seen


def test_little_room_is_worth_a_look(examined, monkeypatch):
    monkeypatch.setattr(folders, "LITTLE", 1 << 60)
    finding = only(folders.space(examined("[limits]\nmin_free_mib = 0\n")))
    assert (finding.status, bool(finding.hint)) == ("warn", True)


# -- partials ------------------------------------------------------------------------------------------------


def journalled(subject, *, days_old=0.0):
    """An import that goes on, and one that waits since so many days, with 8 KiB of it in the spool."""
    (subject.state / "spool").mkdir(parents=True)
    (subject.state / "spool" / f"zones-{OTHER}").write_bytes(b"x" * 8192)
    journal = Journal(subject.state / JOURNAL)
    journal.begin(ImportSpec(UUID, "zones"), {"uuid": UUID})
    journal.begin(ImportSpec(OTHER, "zones"), {"uuid": OTHER})
    journal.park("zones", OTHER)
    journal.close()
    with closing(sqlite3.connect(subject.state / JOURNAL, isolation_level=None)) as db:
        db.execute("UPDATE imports SET touched_at = touched_at - ?", (days_old * 86400,))


def test_partial_downloads_are_counted(examined):
    subject = examined()
    assert only(folders.partials(subject)).status == "ok"
    journalled(subject)
    finding = only(folders.partials(subject))
    assert finding.status == "ok"
    assert finding.seen == "1 import under way, 1 import interrupted, with 8.0 KiB on disk"


def test_old_partial_downloads_are_worth_a_look(examined):
    subject = examined()
    journalled(subject, days_old=9)
    finding = only(folders.partials(subject))
    assert finding.status == "warn"
    assert "for more than 7 days" in finding.seen


def test_a_part_in_the_pool_that_nobody_imports(examined, tmp_path):
    pool = EmbeddedPool("zones", tmp_path / "pool")
    stream = real_stream("base")

    def half():
        yield stream[:2_000_000]
        raise InterruptedError

    try:
        for uuid in (UUID, OTHER):
            with pytest.raises(InterruptedError):
                pool.receive(uuid, half())
        subject = examined(pools={"zones": pool})
        journalled(subject)
        assert only(folders.partials(subject)).status == "ok"  # both are of imports
        with closing(sqlite3.connect(subject.state / JOURNAL, isolation_level=None)) as db:
            db.execute("DELETE FROM imports WHERE uuid = ?", (OTHER,))
        _, stray = folders.partials(subject)
        assert stray.status == "warn"
        assert stray.seen.endswith(f"that imgstored does not import: {OTHER}")
    finally:
        pool.close()


def test_a_damaged_journal_is_named(examined):
    subject = examined()
    subject.state.mkdir()
    (subject.state / JOURNAL).write_bytes(b"this is not SQLite at all. " * 500)
    finding = only(folders.partials(subject))
    assert finding.status == "fail"
    assert "cannot be read" in finding.seen


# -- imgadm's ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (None, "ok", "names no sources"),
        ('{"sources": [{"type": "imgapi", "url": "https://example.com"}]}', "ok", "1 sources"),
        ("{broken", "fail", "is not valid JSON"),
        ('{"sources": {}}', "fail", "not an array"),
    ],
)
def test_imgadms_configuration(examined, content, status, said):
    subject = examined()
    if content is not None:
        subject.settings.imgadm_folder.mkdir(parents=True)
        (subject.settings.imgadm_folder / "imgadm.conf").write_text(content)
    finding = only(folders.imgadm_conf(subject))
    assert finding.status == status
    assert said in finding.seen


def test_manifests_that_cannot_be_read_are_named(examined):
    subject = examined()
    images = subject.settings.imgadm_folder / "images"
    images.mkdir(parents=True)
    (images / f"zones-{UUID}.json").write_text(json.dumps({"manifest": {"uuid": UUID}, "zpool": "zones"}))
    (images / "notes.txt").write_text("somebody else's")
    assert only(folders.manifests(subject)).status == "ok"
    for number, content in enumerate(["", "{", "[]", "{}", '{"manifest": 1}', "null"]):
        (images / f"zones-{number}.json").write_text(content)
    os.mkfifo(images / "zones-pipe.json")
    finding = only(folders.manifests(subject))
    assert finding.status == "fail"
    assert finding.seen.startswith("7 of 8 cannot be read: zones-0.json (")
    assert "and 2 more" in finding.seen
    assert "imgctl update" in finding.hint


def test_a_folder_of_manifests_that_is_none(examined):
    subject = examined()
    subject.settings.imgadm_folder.mkdir(parents=True)
    (subject.settings.imgadm_folder / "images").touch()
    assert only(folders.manifests(subject)).status == "fail"


def test_locks_are_told_with_who_has_them(examined):
    subject = examined()
    folder = subject.settings.imgadm_locks_folder
    folder.mkdir(parents=True)
    (folder / f"img.{OTHER}.import.lock").touch()
    with LockHolder(folder, UUID):
        finding = only(folders.locks(subject))
        assert finding.status == "ok"
        assert re.search(rf": 1 held \({UUID} by pid \d+\), 1 left over", finding.seen)
    assert "0 held, 2 left over" in only(folders.locks(subject)).seen


def test_a_folder_of_locks_that_is_none(examined, tmp_path):
    (tmp_path / "file").touch()
    finding = only(folders.locks(examined(top=f'imgadm_locks = "{tmp_path}/file"')))
    assert finding.status == "fail"
