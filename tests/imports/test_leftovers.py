"""What an end does not keep is dropped, whatever of it cannot be."""

from __future__ import annotations

import errno
import os
import time

import pytest

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.image_locks import ImageLocks
from imgstored.errors import PoolError
from imgstored.hashing import Hasher
from imgstored.imports.journal import Journal
from imgstored.imports.leftovers import Leftovers, spool_name
from imgstored.imports.spec import ImportSpec
from imgstored.imports.state import KEPT, End
from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, fixture_manifest


class KeepingPool(EmbeddedPool):
    """A pool whose disk fails when it is to drop something."""

    def abandon(self, uuid: str) -> None:
        raise PoolError(f"dropping {uuid}: the disk fails")


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def leftovers(tmp_path, journal):
    pool = KeepingPool("zones", tmp_path / "pool")
    (tmp_path / "spool").mkdir()
    catalog = Catalog({"zones": pool}, tmp_path / "images")
    journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
    journal.ranges(spool_name("zones", BASE)).begin(10, 10)
    journal.ranges(spool_name("zones", BASE)).record(0, Hasher().fingerprint())
    yield Leftovers(catalog, journal, tmp_path / "spool", ImageLocks(tmp_path / "locks"))
    pool.close()


def test_an_import_that_nobody_wants_does_not_go_on_because_its_pool_kept_something(leftovers, journal):
    with pytest.raises(PoolError, match="the disk fails"):
        leftovers.drop("zones", BASE, KEPT[End.ABANDONED], locked=True)
    assert [each.wanted for each in journal.imports()] == [False]
    assert journal.spooled() == {spool_name("zones", BASE)}


def test_a_disk_that_fails_is_named_for_people(leftovers, monkeypatch):
    def failing(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(leftovers, "_abandon", failing)
    with pytest.raises(PoolError, match="what the import left cannot be removed: Input/output error"):
        leftovers.drop("zones", BASE, KEPT[End.ABANDONED], locked=True)


def test_wrong_bytes_are_not_believed_where_they_stay(leftovers, journal, tmp_path):
    stays = tmp_path / "spool" / spool_name("zones", BASE)
    stays.mkdir()  # which cannot be unlinked
    with pytest.raises(PoolError, match="the disk fails"):
        leftovers.drop("zones", BASE, KEPT[End.SPOILED], locked=True)
    assert stays.exists()
    assert journal.spooled() == set()
    assert journal.imports() == []


def test_a_download_of_the_future_is_dropped_in_the_end(leftovers, journal, monkeypatch):
    """The clock was ten years ahead when its client left. It is kept as long as any other, and no longer."""
    now, uptime = time.time(), time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now + 10 * 365 * 86400)
        journal.park("zones", BASE)
    week = 7 * 86400
    for passed, there in ((0, 1), (week - 60, 1), (week + 60, 0)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda passed=passed: now + passed)
            patched.setattr(time, "monotonic", lambda passed=passed: uptime + passed)
            leftovers._abandon = lambda *_, **__: None
            leftovers.expire(week)
        assert len(journal.imports()) == there


def test_a_clock_that_is_right_again_drops_nothing(leftovers, journal, monkeypatch):
    """A host that begins in 1970 sees what was left a minute ago in the future, and then as it is."""
    journal.park("zones", BASE)
    for year in (1970, None):
        with monkeypatch.context() as patched:
            if year:
                patched.setattr(time, "time", lambda: 60.0)
            leftovers.expire(7 * 86400)
        assert len(journal.imports()) == 1
