"""The short form of `make power-cuts`, on real ZFS and ext4."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.guest.power_cuts import Cuts, moments, recorded
from tests.proofs.forks import Forks
from tests.proofs.world import image_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "cuts", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(900)
def test_what_clients_know_survives_a_power_cut(memory: Path) -> None:
    with image_server(memory / "server") as url, Forks() as forks:
        record = recorded(memory / "run", url, forks, seed=3, operations=6)
        cuts = Cuts(memory / "cuts", url, forks, record)
        chosen = moments(record.log.writes, record.begin, 8, random.Random(3))
        wrong = dict(cuts.run(chosen, seed=3))
        cuts.close()
    assert len(wrong) == 8
    assert not [each for each in wrong.values() if each is not None]


@pytest.mark.timeout(900)
def test_a_daemon_that_does_not_sync_is_found_out(memory: Path) -> None:
    with image_server(memory / "server") as url:
        with Forks(syncs=False) as forks:
            record = recorded(memory / "run", url, forks, seed=3, operations=3)
        with Forks() as forks:
            cuts = Cuts(memory / "cuts", url, forks, record)
            # Right when a client has its answer, and the disk has nothing but what was flushed.
            told = [moment for moment, _ in record.known[2::2]]
            wrong = dict(cuts.run(told, seed=3, shares=(0.0,)))
            cuts.close()
    assert [each for each in wrong.values() if each is not None]
