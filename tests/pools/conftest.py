from __future__ import annotations

import pytest

from tests.support.fake_lzc import FakeLzc


@pytest.fixture(scope="session")
def fake_lzc(tmp_path_factory: pytest.TempPathFactory) -> FakeLzc:
    """One for the whole process: the linker gives a second libzfs_core the first one's libnvpair."""
    return FakeLzc(tmp_path_factory.mktemp("illumos"))
