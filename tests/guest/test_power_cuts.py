"""The short form of `make power-cuts`, on real ZFS and ext4."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.guest.power_cuts import ZfsHost, recorded
from tests.proofs.disk_cuts import Cuts, moments
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
        record = recorded(ZfsHost(), memory / "run", url, forks, seed=3, operations=6)
        cuts = Cuts(ZfsHost(), memory / "cuts", url, forks, record)
        chosen = moments(record.log.writes, record.begin, 4, random.Random(3))
        wrong = dict(cuts.run(chosen, seed=3))
        # Right when a client has been told of a hold, on disks that forget more or less of what they said.
        told, found = record.known[6][0], []
        forgetful = Cuts(ZfsHost(), memory / "forgetful", url, forks, record)
        for flushes in (90, 60, 30, 10):
            found += [wrong for _, wrong in forgetful.run([told], seed=3, shares=(0.0,), forgets=flushes)]
        for each in (cuts, forgetful):
            each.close()
    assert len(wrong) == 4
    broken = [each for each in wrong.values() if each is not None]
    assert not broken, "\n\n".join(broken)
    assert any("clients were told" in (each or "") for each in found), found
