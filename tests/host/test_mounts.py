"""The lists of mounts of Linux and of illumos, neither of them needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.host import mounts
from imgstored.host.mounts import Mount, holding, mounted, mounted_at, of_mnttab, of_mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: proc(5).
MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /with\040space rw shared:2 master:1 - zfs tank/a rw,xattr
41 22 0:36 / /images ro - fuse.imgstored imgstored ro
42 22 0:37 / /images ro - tmpfs none rw
short
"""
#: mnttab(5), as a SmartOS host has it.
MNTTAB = b"\n".join(
    b"\t".join(fields)
    for fields in (
        (
            b"/devices/ramdisk:a",
            b"/",
            b"ufs",
            b"rw,largefiles,nologging,onerror=panic,dev=1",
            b"17",
        ),
        (b"/devices", b"/devices", b"devfs", b"dev=8940000", b"1764000000"),
        (b"mnttab", b"/etc/mnttab", b"mntfs", b"dev=8ac0001", b"1764000000"),
        (b"swap", b"/var/run", b"tmpfs", b"xattr,dev=8b40002", b"1764000000"),
        (b"zones/var", b"/var", b"zfs", b"rw,devices,setuid,exec,xattr,atime,dev=4510004", b"1764000005"),
        (b"zones/a b", b"/var/a b", b"zfs", b"rw,dev=4510005", b"1764000006"),
        (b"not", b"a mount"),
        (b"",),
    )
)


@pytest.fixture
def illumos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host with that list, and without Linux's."""
    (tmp_path / "mnttab").write_bytes(MNTTAB)
    lists = ((tmp_path / "mountinfo", of_mountinfo), (tmp_path / "mnttab", of_mnttab))
    monkeypatch.setattr(mounts, "_LISTS", lists)
    return tmp_path


def test_linux() -> None:
    assert list(of_mountinfo(MOUNTINFO)) == [
        Mount("8:1", b"/", "ext4", "/dev/sda1"),
        Mount("0:35", b"/with space", "zfs", "tank/a"),
        Mount("0:36", b"/images", "fuse.imgstored", "imgstored"),
        Mount("0:37", b"/images", "tmpfs", "none"),
    ]


def test_illumos() -> None:
    found = list(of_mnttab(MNTTAB))
    assert [mount.place for mount in found] == [
        b"/", b"/devices", b"/etc/mnttab", b"/var/run", b"/var", b"/var/a b",
    ]  # fmt: skip
    assert found[0] == Mount("1", b"/", "ufs", "/devices/ramdisk:a")
    assert found[5] == Mount("4510005", b"/var/a b", "zfs", "zones/a b")


def test_this_host_has_one() -> None:
    assert mounted_at(Path("/proc")) is not None
    assert mounted_at(Path("/proc/self")) is None


def test_the_topmost_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    monkeypatch.setattr(mounts, "_LISTS", ((tmp_path / "mountinfo", of_mountinfo),))
    found = mounted_at(Path("/images"))
    assert found is not None
    assert found.kind == "tmpfs"
    assert holding(Path("/images/a/b"), mounted()) == found
    assert holding(Path("/imagesque"), mounted()) == Mount("8:1", b"/", "ext4", "/dev/sda1")


def test_where_linuxs_is_missing(illumos: Path) -> None:
    found = mounted_at(Path("/var"))
    assert found is not None
    assert (found.kind, found.source) == ("zfs", "zones/var")
    for path, source in (
        ("/images", "/devices/ramdisk:a"),
        ("/var/imgstored/images", "zones/var"),
        ("/variable", "/devices/ramdisk:a"),
        ("/", "/devices/ramdisk:a"),
    ):
        held = holding(Path(path), mounted())
        assert held is not None
        assert held.source == source


def test_where_there_is_none(illumos: Path) -> None:
    (illumos / "mnttab").unlink()
    assert mounted() == []
    assert mounted_at(Path("/")) is None
    assert holding(Path("/"), mounted()) is None


@given(st.binary(), st.sampled_from([of_mountinfo, of_mnttab]))
def test_any_list(text: bytes, parsed: Callable[[bytes], Iterator[Mount]]) -> None:
    list(parsed(text))
