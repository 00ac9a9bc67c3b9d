"""What every pool must do, on real ZFS."""

from __future__ import annotations

from tests.pools.contract import PoolContract


class TestContract(PoolContract):
    """What every pool must do."""
