"""What happens when there is no room, and when there is just enough."""

from __future__ import annotations

import os

import pytest

from imgstored.errors import NoSpaceError
from imgstored.imports.resources import FreeSpace
from imgstored.pools.base import Space

MIB = 1 << 20


class FixedPool:
    """A pool with so much room, which somebody else takes away."""

    name = "zones"

    def __init__(self, *available: int) -> None:
        self._available = list(available)

    def space(self) -> Space:
        return Space(1 << 40, self._available.pop(0) if len(self._available) > 1 else self._available[0])


def test_a_download_that_fits_and_one_that_does_not(tmp_path):
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    FreeSpace(tmp_path, min_free=free // 2).check_spool(free // 4)
    with pytest.raises(NoSpaceError, match="not enough room in"):
        FreeSpace(tmp_path, min_free=free // 2).check_spool(free)
    # Nothing is to come: what is there may be used however full the disk is.
    FreeSpace(tmp_path, min_free=2 * free).check_spool(0)


def test_a_stream_that_fits_and_one_that_does_not(tmp_path):
    free_space = FreeSpace(tmp_path, min_free=10 * MIB)
    free_space.check_pool(FixedPool(30 * MIB), 20 * MIB)
    with pytest.raises(NoSpaceError, match=r'in pool "zones": 21\.0 MiB to come, 30\.0 MiB free \(10 MiB'):
        free_space.check_pool(FixedPool(30 * MIB), 21 * MIB)


def test_a_pool_that_fills_up_ends_the_stream(tmp_path):
    free_space = FreeSpace(tmp_path, min_free=10 * MIB)
    pieces = (bytes(MIB) for _ in range(200))
    passed = []
    with pytest.raises(NoSpaceError):
        passed.extend(free_space.watched(pieces, FixedPool(100 * MIB, 50 * MIB, 5 * MIB)))
    assert 100 < len(passed) < 150
