"""Layers applied to a real folder, which hostile ones cannot leave."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import LayerError
from imgstored.layers import tree
from imgstored.layers.entries import entries
from tests.support.descriptors import no_files_left
from tests.support.layers import file, folder, hard, link, listing, member, tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
ME = {"uid": os.geteuid(), "gid": os.getegid()}


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def apply(root: Path, *members: tuple[tarfile.TarInfo, bytes], devices: bool = False) -> tree.Applied:
    for info, _ in members:
        info.uid = info.uid or ME["uid"]
        info.gid = info.gid or ME["gid"]
    return apply_tar(root, tar_of(*members), devices=devices)


def apply_tar(root: Path, data: bytes, *, devices: bool = False) -> tree.Applied:
    with no_files_left(), opened(root) as fd:
        return tree.apply(entries(io.BytesIO(data)), fd, take=lambda _size: None, devices=devices)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for layers. What is beside it stays as it is, whatever a test does."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (tmp_path / "root").mkdir()
    yield tmp_path / "root"
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "root"}
    assert (outside.read_bytes(), outside.stat().st_nlink) == (b"untouched", 1)


# -- what a layer adds ---------------------------------------------------------------------------------------


@needs_root
def test_everything_is_as_tar_makes_it(root, tmp_path_factory):
    """GNU tar, as root, unpacks the same layer to the same."""
    data = tar_of(
        folder("./", mtime=1_600_000_000),
        folder("bin", mtime=1_600_000_001),
        file("bin/su", b"su" * 100_000, mode=0o4755, mtime=1_600_000_002),
        link("bin/sh", "../../../su"),
        hard("bin/again", "bin/su"),
        folder("home/me", uid=1000, gid=1000, mtime=1_600_000_003),
        file("home/me/a", b"", uid=1000, gid=1001, mode=0o600, mtime=1_600_000_004.25),
        (member("run/pipe", tarfile.FIFOTYPE, mode=0o622, mtime=7), b""),
        (member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, mtime=8), b""),
        file("\u00e4", b"more than ASCII", mtime=9),
        file("bin/zz", mtime=10),
    )
    theirs = tmp_path_factory.mktemp("theirs")
    subprocess.run(
        ["tar", "-xp", "--numeric-owner", "-f", "-", "-C", str(theirs)], input=data, check=True, timeout=60
    )
    applied = apply_tar(root, data, devices=True)
    assert described(root) == described(theirs)
    assert (applied.entries, applied.size, applied.devices) == (11, 200_000 + 15 + 1, 0)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        # A folder that the layer has no entry for has the time of the unpacking.
        mtime = status.st_mtime_ns if path.name not in ("home", "run", "dev") else 0
        content = b"" if path.is_dir() else os.readlink(path) if path.is_symlink() else b"?"  # noqa: PTH115
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
        owner = (status.st_uid, status.st_gid)
        found[str(path.relative_to(root))] = (
            oct(status.st_mode),
            owner,
            status.st_rdev,
            status.st_nlink,
            mtime,
            content,
        )
    return found


def test_devices_are_left_out(root):
    apply(root, file("dev/null", b"a file"))
    applied = apply(root, (member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""))
    assert (listing(root), applied.devices) == ({"dev": None}, 1)


def test_attributes(root):
    headers = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    applied = apply(root, file("a", pax_headers=headers))
    try:
        os.setxattr(root, "user.probe", b"")
        os.removexattr(root, "user.probe")
    except OSError:
        assert applied.attributes == 2
    else:
        assert (os.listxattr(root / "a"), applied.attributes) == (["user.a"], 1)


def test_a_layer_replaces_what_is_below(root):
    apply(
        root, folder("d"), file("d/x"), file("f", b"old"), link("l", "d"), file("h", b"kept"), hard("h2", "h")
    )
    apply(root, file("d", b"now a file"), folder("f"), file("f/y"), folder("l"), file("h2", b"changed"))
    assert listing(root) == {
        "d": b"now a file",
        "f": None,
        "f/y": b"x",
        "l": None,
        "h": b"kept",
        "h2": b"changed",
    }


def test_a_folder_keeps_what_is_in_it_and_gets_its_mode(root):
    apply(root, folder("d"), file("d/x"))
    info, data = folder("d")
    info.mode = 0o700
    info.mtime = 5
    apply(root, (info, data), file("d/y"))
    assert set(listing(root)) == {"d", "d/x", "d/y"}
    status = (root / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o700, 5)


# -- what a layer removes ------------------------------------------------------------------------------------


def test_whiteouts(root):
    apply(root, folder("a"), file("a/x"), file("a/y"), folder("b/c"), file("b/c/z"), file("d"))
    apply(root, file("a/.wh.x"), file("b/.wh.c"), file(".wh.d"), file(".wh.never"), file("never/.wh.x"))
    assert listing(root) == {"a": None, "a/y": b"x", "b": None}


def test_a_whiteout_concerns_the_layers_below_only(root):
    """Wherever it stands among the layer's entries (image-spec, layer.md, "Whiteouts")."""
    apply(root, folder("a"), file("a/old"), file("a/both", b"old"), folder("a/sub"), file("a/sub/old"))
    apply(
        root,
        file("a/new"),
        file("a/both", b"new"),
        file("a/sub/new"),
        file("a/.wh..wh..opq"),
        file("a/late"),
        file("a/.wh.late"),
    )
    assert listing(root) == {
        "a": None,
        "a/new": b"x",
        "a/both": b"new",
        "a/sub": None,
        "a/sub/new": b"x",
        "a/late": b"x",
    }


def test_a_whiteout_of_a_link_leaves_its_target(root):
    apply(root, folder("a"), file("a/x"), link("l", "a"))
    apply(root, file(".wh.l"))
    assert listing(root) == {"a": None, "a/x": b"x"}


def test_a_removed_link_is_not_followed_any_more(root):
    apply(root, folder("a"), link("l", "a"))
    apply(root, file("l/x"), file(".wh.l"), file("l/y"))
    assert listing(root) == {"a": None, "a/x": b"x", "l": None, "l/y": b"x"}


# -- hostile layers ------------------------------------------------------------------------------------------


def test_links_lead_nowhere_but_into_the_image(root):
    apply(
        root,
        link("up", "../../../../../.."),
        link("abs", "/"),
        link("abs2", f"{root.parent}"),
        file("up/outside", b"1"),
        file("abs/outside2", b"2"),
        file("abs2/outside", b"3"),
        file("up/up/abs/up/deep/outside", b"4"),
    )
    found = listing(root)
    assert found["outside"] == b"1"
    assert found["outside2"] == b"2"
    assert found["deep/outside"] == b"4"
    assert found[f"{str(root.parent)[1:]}/outside"] == b"3"


def test_a_file_is_never_written_through_a_link(root):
    apply(root, link("outside", "../outside"), link("abs", str(root.parent / "outside")))
    apply(root, file("outside", b"1"), file("abs", b"2"))
    assert listing(root) == {"outside": b"1", "abs": b"2"}


def test_a_hard_link_is_never_to_something_outside(root):
    apply(root, link("up", ".."), link("out", "../outside"))
    with pytest.raises(LayerError, match="is to no file"):
        apply(root, hard("a", "up/outside"))
    apply(root, hard("a", "out"))
    assert (root / "a").is_symlink()
    assert (root.parent / "outside").stat().st_nlink == 1


def test_a_whiteout_never_reaches_outside(root):
    apply(root, link("up", ".."), link("top", "/"))
    apply(root, file("up/.wh.outside"), file("top/.wh.outside"), file("up/.wh..wh..opq"))
    assert listing(root) == {}


@pytest.mark.parametrize(
    "members",
    [
        [link("a", "b"), link("b", "a"), file("a/x")],
        [link("a", "a/a"), file("a/x")],
        [hard("a", "missing")],
        [folder("d"), hard("a", "d")],
        [file("d/x"), hard("d", "d/x")],
    ],
    ids=["loop", "growing", "to nothing", "to a folder", "replaces what it names"],
)
def test_what_cannot_be(root, members):
    with pytest.raises(LayerError, match="the layer cannot be unpacked"):
        apply(root, *members)


def test_too_deep_by_links(root):
    deep = "/".join(["d"] * 100)
    with pytest.raises(LayerError, match="too deep"):
        apply(root, folder(deep), link("l", deep), folder("l/" + deep))


def test_so_many_files_and_no_more(root, monkeypatch):
    monkeypatch.setattr(tree, "MAX_ENTRIES", 5)
    with pytest.raises(LayerError, match="more than 5 files"):
        apply(root, file("a/b/c/d/e/f"))


def test_room_is_asked_for_before_it_is_written(root):
    asked = 0

    def take(size: int) -> None:
        nonlocal asked
        asked += size
        if asked > 3 << 20:
            raise OSError(28, "full")

    data = tar_of(file("a", b"x" * (8 << 20), **ME))
    with no_files_left(), opened(root) as fd, pytest.raises(OSError, match="full"):
        tree.apply(entries(io.BytesIO(data)), fd, take=take, devices=False)
    assert (root / "a").stat().st_size <= 3 << 20


# -- any layers ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OPERATIONS = st.one_of(
    st.tuples(st.just("file"), PATHS, st.binary(max_size=3)),
    st.tuples(st.just("folder"), PATHS, st.just(b"")),
    st.tuples(st.just("whiteout"), PATHS, st.just(b"")),
    st.tuples(st.just("opaque"), PATHS, st.just(b"")),
)


class Model:
    """A tree as a dictionary, without links."""

    def __init__(self) -> None:
        self.tree: dict[str, bytes | None] = {}

    def apply(self, operations: list[tuple[str, str, bytes]]) -> None:
        placed: set[str] = set()
        for kind, path, data in operations:
            below = [each for each in self.tree if each.startswith(path + "/")]
            if kind in ("file", "folder"):
                parts = path.split("/")
                for count in range(1, len(parts)):
                    parent = "/".join(parts[:count])
                    if self.tree.get(parent, b"") is not None:
                        self.tree[parent] = None
                        placed.add(parent)
                if kind == "file":
                    for each in below:
                        del self.tree[each]
                if kind == "file" or self.tree.get(path, b"") is not None:
                    self.tree[path] = data if kind == "file" else None
                placed.add(path)
                continue
            gone = below if kind == "opaque" else [path, *below]
            for each in sorted(gone, reverse=True):
                inside = any(other.startswith(each + "/") for other in self.tree)
                if each in self.tree and each not in placed and not inside:
                    del self.tree[each]


@settings(deadline=None)
@given(layers=st.lists(st.lists(OPERATIONS, max_size=8), max_size=4))
def test_any_layers(layers, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    model = Model()
    for operations in layers:
        members = []
        for kind, path, data in operations:
            parent, _, name = path.rpartition("/")
            if kind == "whiteout":
                members.append(file(f"{parent}/.wh.{name}", b""))
            elif kind == "opaque":
                members.append(file(f"{path}/.wh..wh..opq", b""))
            else:
                members.append(file(path, data) if kind == "file" else folder(path))
        apply(root, *members)
        model.apply(operations)
        assert listing(root) == model.tree


def test_zeros_are_holes(root: Path) -> None:
    """A layer of zeros, which has hardly any bytes compressed, takes no room."""
    taken: list[int] = []
    data = bytes(8 << 20) + b"end"
    with opened(root) as fd:
        tree.apply(entries(io.BytesIO(tar_of(file("big", data, **ME)))), fd, take=taken.append, devices=False)
    assert (root / "big").read_bytes() == data
    assert sum(taken) < 1 << 16
    assert (root / "big").stat().st_blocks * 512 < 1 << 20


def test_what_gnu_tar_makes_of_a_sparse_file(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("sparse")
    with (place / "f").open("wb") as made:
        made.truncate(5 << 20)
        made.seek(3 << 20)
        made.write(b"middle")
    for form in ("gnu", "posix"):
        command = ["tar", "-S", "-c", "-f", "-", f"--format={form}", "-C", str(place), "f"]
        apply_tar(root, subprocess.run(command, check=True, capture_output=True).stdout)
        assert (root / "f").read_bytes() == (place / "f").read_bytes()


@pytest.mark.parametrize("name", ["user.", "security.capability"])
def test_an_attribute_that_is_none_is_left_out(root: Path, name: str) -> None:
    info, data = file("f")
    info.pax_headers = {f"SCHILY.xattr.{name}": "x"}
    assert apply(root, (info, data)).attributes == 1


def test_an_attribute_that_is_too_large_here(root: Path) -> None:
    """ext4 has a block for all attributes of a file, and says ENOSPC beyond it."""
    headers = {f"SCHILY.xattr.user.{name}": name * 40_000 for name in "ab"}
    applied = apply(root, file("f", b"whole", pax_headers=headers))
    assert len(os.listxattr(root / "f")) + applied.attributes == 2
    assert (root / "f").read_bytes() == b"whole"


def test_an_attribute_for_which_there_is_no_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tree, "_LARGEST_ATTRIBUTE", 1 << 80)
    monkeypatch.setattr(os, "setxattr", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        apply(root, file("f", pax_headers={"SCHILY.xattr.user.a": "1"}))


def test_a_file_that_this_system_cannot_have(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as too many links: the image is at fault, and not the pool."""

    def too_many(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", too_many)
    with pytest.raises(LayerError, match='"h" cannot be on this host: Too many links'):
        apply(root, file("f"), hard("h", "f"))
