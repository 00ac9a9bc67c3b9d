"""Real ZFS is only in the guest: tests/guest/run.sh runs these tests there."""

from __future__ import annotations

import os

import pytest

from tests.support.fake_lzc import FakeLzc

collect_ignore = [] if os.environ.get("IMGSTORE_GUEST") else ["test_zfs.py", "test_zfs_bindings.py"]


@pytest.fixture(scope="session")
def fake_lzc(tmp_path_factory: pytest.TempPathFactory) -> FakeLzc:
    """One for the whole process: the linker gives a second libzfs_core the first one's libnvpair."""
    return FakeLzc(tmp_path_factory.mktemp("illumos"))
