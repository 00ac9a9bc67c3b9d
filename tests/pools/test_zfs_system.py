"""What the kernel's files say of a ZFS pool, and where a dataset is mounted."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from imgstored.errors import PoolError
from imgstored.pools.zfs import system
from imgstored.pools.zfs.system import health, mounted_for_writing

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


@pytest.mark.parametrize("left", [False, True])
def test_nobody_else_reaches_what_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """What a layer lets everybody write, such as /tmp, is not for users of the host while it is unpacked."""
    monkeypatch.setattr(system, "_FOLDER", tmp_path)
    around = tmp_path / "imgstored-zones-u-partial"
    if left:  # by a daemon that was killed
        around.mkdir(mode=0o755)
    seen = []

    def mount(dataset: str, place: Path, pool: str) -> None:
        place.chmod(0o755)  # as a dataset's root is
        seen.append((place.parent, stat.S_IMODE(place.parent.stat().st_mode)))

    monkeypatch.setattr(system, "_mount", mount)
    with mounted_for_writing("zones/u-partial", "zones") as fd:
        os.mkdir("root", dir_fd=fd)
        os.rmdir("root", dir_fd=fd)
    assert seen == [(around, 0o700)]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_mounted_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_FOLDER", tmp_path)
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "imgstored-zones-u-partial").symlink_to(tmp_path / "other")
    with pytest.raises(PoolError, match="cannot be made"), mounted_for_writing("zones/u-partial", "zones"):
        pytest.fail("it was mounted")
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o755
