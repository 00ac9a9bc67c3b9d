"""What every pool must do, on real ZFS."""

from __future__ import annotations

from tests.pools.contract import PoolContract
from tests.pools.layer_contract import LayerContract


class TestContract(PoolContract):
    """What every pool must do."""


class TestLayers(LayerContract):
    """What every pool must do with container images."""
