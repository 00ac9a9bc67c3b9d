"""FUSE, and the view's folder. What becomes of a mount is tested end to end."""

from __future__ import annotations

import errno
import os

import pytest

from imgstored.doctor import view
from imgstored.host import mounts
from imgstored.view.plain import PlainFolder


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize("mode", ["off", "files"])
def test_fuse_is_not_always_needed(examined, mode):
    finding = only(view.fuse(examined(f'[view]\nmode = "{mode}"\n')))
    assert (finding.status, "not needed" in finding.seen) == ("ok", True)


@pytest.mark.parametrize(("mode", "status"), [("fuse", "fail"), ("auto", "ok")])
def test_fuse_that_is_not_there(examined, monkeypatch, tmp_path, mode, status):
    monkeypatch.setattr(view, "_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(view.mountpoint, "fusermount", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    finding = only(view.fuse(examined(f'[view]\nmode = "{mode}"\n')))
    assert finding.status == status
    for part in ("pyfuse3 is not installed", f"{tmp_path}/fuse: No such file", "no fusermount3"):
        assert part in finding.seen
    assert ("the view is plain files" in finding.seen) == (mode == "auto")
    assert "imgstore[fuse]" in finding.hint


def test_there_is_no_view(examined):
    assert only(view.view(examined('[view]\nmode = "off"\n'))).status == "ok"


def test_before_the_first_start(examined, tmp_path):
    subject = examined()
    assert "the first start creates it" in only(view.view(subject)).seen
    assert not (tmp_path / "images").exists()
    (tmp_path / "images").mkdir()
    assert only(view.view(subject)).status == "ok"
    (tmp_path / "images" / "thing").touch()
    finding = only(view.view(subject))
    assert (finding.status, finding.seen) == ("fail", f"{tmp_path}/images is not empty: it has thing")


def test_the_files_of_before(examined, tmp_path):
    PlainFolder(tmp_path / "images").close()
    finding = only(view.view(examined()))
    assert (finding.status, "files of before" in finding.seen) == ("ok", True)


def test_a_place_that_is_none(examined, tmp_path):
    (tmp_path / "images").touch()
    finding = only(view.view(examined()))
    assert finding.status == "fail"
    assert "`view.path`" in finding.hint
    (tmp_path / "images").unlink()
    (tmp_path / "images").symlink_to(tmp_path / "images")
    assert only(view.view(examined())).status == "fail"


def test_a_running_daemons_view_that_somebody_removed(examined, tmp_path):
    for kind in ("fuse", "files"):
        finding = only(view.view(examined(pools={}, view=kind)))
        assert (finding.status, "is not there" in finding.seen) == ("fail", True)
    (tmp_path / "images").mkdir()
    assert only(view.view(examined(pools={}, view="files"))).status == "ok"
    finding = only(view.view(examined(pools={}, view="fuse")))
    assert (finding.status, "nothing is mounted" in finding.seen) == ("fail", True)


@pytest.mark.parametrize(("facts", "status"), [({}, "warn"), ({"pools": {}, "view": "fuse"}, "fail")])
def test_a_mount_whose_server_is_gone(examined, monkeypatch, facts, status):
    def dead(path):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", path)

    monkeypatch.setattr(view.os, "statvfs", dead)
    finding = only(view.view(examined(**facts)))
    assert finding.status == status
    assert "umount -l" in finding.hint


#: A SmartOS host's mnttab(5).
MNTTAB = (
    b"/devices/ramdisk:a\t/\tufs\trw,nologging,dev=1\t17\n"
    b"zones/var\t/var\tzfs\trw,dev=4510004\t1764000005\n"
    b"swap\t/tmp\ttmpfs\txattr,dev=8b40002\t1764000000\n"
)


@pytest.mark.parametrize(
    ("path", "mode", "facts", "warned"),
    [
        ("/images", "files", {}, True),
        ("/images", "files", {"pools": {}, "view": "files"}, True),
        ("/images", "fuse", {"pools": {}, "view": "fuse"}, False),
        ("/images", "off", {}, False),
        ("/var/imgstored/images", "files", {}, False),
        ("/tmp/images", "files", {}, False),
    ],
)
def test_a_view_on_the_ram_disk(examined, monkeypatch, path, mode, facts, warned):
    monkeypatch.setattr(view, "mounted", lambda: list(mounts.of_mnttab(MNTTAB)))
    found = view.view(examined(f'[view]\nmode = "{mode}"\npath = "{path}"\n', **facts))
    on_ram = [finding for finding in found if "RAM disk" in finding.seen]
    assert [finding.status for finding in on_ram] == (["warn"] if warned else [])
    assert all("/var/imgstored/images" in finding.hint for finding in on_ram)


def test_illumos_has_no_mountinfo_and_that_is_no_fault(examined, monkeypatch, tmp_path):
    (tmp_path / "mnttab").write_bytes(MNTTAB)
    lists = ((tmp_path / "mountinfo", mounts.of_mountinfo), (tmp_path / "mnttab", mounts.of_mnttab))
    monkeypatch.setattr(mounts, "_LISTS", lists)
    (tmp_path / "images").mkdir()
    assert only(view.view(examined())).status == "ok"


@pytest.mark.parametrize(("free", "status"), [(0, "fail"), (7, "warn"), (100_000, None), (None, None)])
def test_inodes(examined, monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(view.few_inodes.__globals__["shortage"], "free_inodes", lambda place: free)
    (tmp_path / "images").mkdir()
    found = view.view(examined(f'[view]\nmode = "files"\npath = "{tmp_path}/images"\n'))
    assert [finding.status for finding in found if "free inodes" in finding.seen] == (
        [status] if status else []
    )


def test_the_link(examined, tmp_path):
    text = f'[view]\nmode = "files"\npath = "{tmp_path}/images"\nlink = "{tmp_path}/link"\n'
    (tmp_path / "images").mkdir()
    assert only(view.view(examined(text))).status == "ok"
    _, found = view.view(examined(text, pools={}, view="files"))
    assert (found.status, "is not there" in found.seen) == ("warn", True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert only(view.view(examined(text, pools={}, view="files"))).status == "ok"
    (tmp_path / "link").unlink()
    (tmp_path / "link").mkdir()
    _, found = view.view(examined(text))
    assert (found.status, "stays as it is" in found.seen) == ("warn", True)
