"""What the kernel's files say of a ZFS pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgstored.pools.zfs.system import health

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"ONLINE\n", "ONLINE"),
        (b"DEGRADED\n", "DEGRADED"),
        (b"SUSPENDED", "SUSPENDED"),
        (b"", None),
        (b"\xff\xfe\n", None),
        (b"\x1b[2J\n", None),
        (b"online", None),
        (b"A" * 100, "A" * 32),
    ],
)
def test_the_word(tmp_path: Path, content: bytes, word: str | None) -> None:
    (tmp_path / "zones").mkdir()
    (tmp_path / "zones" / "state").write_bytes(content)
    assert health("zones", tmp_path) == word


def test_where_there_is_no_zfs(tmp_path: Path) -> None:
    assert health("zones", tmp_path / "none") is None
    (tmp_path / "zones").mkdir()
    assert health("zones", tmp_path) is None
