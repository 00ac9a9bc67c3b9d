"""The short form of `make disk-cuts`: a real ext4, whose disk loses what was not flushed."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.proofs.disk_cuts import Changes, Cuts, Ext4Host, moments, recorded
from tests.proofs.forks import Forks
from tests.proofs.recording import Change
from tests.proofs.world import image_server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system"),
    # A container may have none; the guest, which runs its own form of these, always has.
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="this machine gives no loop devices"),
]


@pytest.fixture(scope="module")
def folder():
    """In memory: the disks are written anew for each cut."""
    path = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def url(folder):
    with image_server(folder / "server") as url:
        yield url


@pytest.fixture(scope="module")
def forks():
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="module")
def record(folder, url, forks):
    return recorded(Ext4Host(), folder / "run", url, forks, seed=7, operations=6)


def test_what_clients_know_survives_a_power_cut(folder, url, forks, record):
    cuts = Cuts(Ext4Host(), folder / "cuts", url, forks, record)
    chosen = moments(record.log.writes, record.begin, 12, random.Random(3))
    wrong = dict(cuts.run(chosen, seed=3))
    cuts.close()
    assert len(wrong) == 12
    assert [each for each in wrong.values() if each is not None] == []


def test_a_disk_that_forgets_what_was_flushed_is_found_out(folder, url, forks, record):
    """Two operations of about 40 flushes: of a shorter part an import goes on by itself."""
    cuts = Cuts(Ext4Host(), folder / "forgetful", url, forks, record)
    # Right when a client has its answer, and the disk has nothing but what was flushed.
    told = [moment for moment, _ in record.known[2::2]]
    wrong = dict(cuts.run(told, seed=3, shares=(0.0,), forgets=80))
    cuts.close()
    broken = [each for each in wrong.values() if each is not None]
    assert any("clients were told" in each for each in broken)
    assert all("nothing is broken" not in each for each in broken), "the very same disks break the same"


def test_the_log_has_what_was_written_and_when_it_was_durable():
    log = Changes(
        [Change("write", 2, offset=512, data=b"one"), Change("sync", 2), Change("write", 2, data=b"two")]
    )
    assert [(each.offset, each.size, each.flush) for each in log.writes] == [
        (512, 3, False),
        (0, 0, True),
        (0, 3, False),
    ]
    assert [log.data(each) for each in log.writes if each.size] == [b"one", b"two"]
