"""imgctl writes into a folder that belongs to another user, who does there what they like meanwhile."""

from __future__ import annotations

import os
import subprocess

import pytest
from imgctl.errors import CommandError
from imgctl.run import image_files
from imgctl.run.image_files import ImageFile

from tests.support.events import ManifestMade, Sending
from tests.support.other_user import PLANT, UID, OtherUser

BASE = "11111111-aaaa-4bbb-8ccc-000000000001"
MANIFEST = {"v": 2, "uuid": BASE, "name": "test1", "version": "1.0"}
SECRET = b"what only root may read " * 400
CONTENT = b"what is exported" * 4096


@pytest.fixture
def theirs(tmp_path):
    """Their folder."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, UID, -1)
    return folder


@pytest.fixture
def victim(tmp_path):
    """A file that is not theirs to read or to write."""
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def disk_of(qcow2, folder):
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(qcow2), str(folder / "raw")], check=True)
    return (folder / "raw").read_bytes()


def test_a_link_that_waits_for_the_manifest_is_not_followed(theirs, victim):
    with ImageFile(theirs / "img") as file, OtherUser(theirs, PLANT, str(victim), "once") as other:
        os.write(file.descriptor, CONTENT)
        other.go()
        other.wait()
        # Its own name is taken, and so it is not theirs that gets the image's name.
        with pytest.raises(CommandError, match="somebody else has put another file in the place of"):
            file.keep(MANIFEST)
    assert victim.read_bytes() == SECRET
    assert not (theirs / "img").exists()


def test_qemu_img_gets_the_files_that_were_opened(theirs, victim, tmp_path):
    with ImageFile(theirs / "img") as file, OtherUser(theirs, PLANT, str(victim), "once") as other:
        os.write(file.descriptor, CONTENT)
        other.go()
        other.wait()
        file.convert_to_qcow2()
        file.keep(None)
    assert victim.read_bytes() == SECRET
    assert disk_of(theirs / "img.qcow2", tmp_path) == CONTENT


@pytest.mark.parametrize("what", ["export", "qcow2", "create"])
@pytest.mark.parametrize("_", range(3))
def test_whoever_plants_links_meanwhile_gets_nothing(imgctl, daemon, theirs, victim, tmp_path, what, _):
    named = ManifestMade(MANIFEST, "img", ".raw" if what == "qcow2" else ".zfs")
    daemon.making.events = [named, Sending(), theirs / "planted"]
    daemon.making.result = {"manifest": MANIFEST}
    daemon.making.content = CONTENT
    words = {
        "export": ["export", "-o", str(theirs), BASE],
        "qcow2": ["export", "--format", "qcow2", "-o", str(theirs), BASE],
        "create": ["create", "-o", str(theirs), "zones/web"],
    }[what]
    with OtherUser(theirs, PLANT, str(victim)) as other:
        other.go()
        said = imgctl(*words)
        (theirs / "enough").touch()
        other.wait()
    assert victim.read_bytes() == SECRET
    for path in theirs.iterdir():
        if not path.is_symlink() and path.stat().st_size:
            assert SECRET[:24] not in (
                disk_of(path, tmp_path) if path.suffix == ".qcow2" else path.read_bytes()
            )
    # It depends on who was faster whether it went well; but never says so of a file that is not its own.
    if said.returncode == 0:
        assert not (theirs / ("img.qcow2" if what == "qcow2" else "img.zfs")).is_symlink()
    else:
        assert "somebody else has put another file in the place of" in said.stderr


def test_the_folder_is_the_one_that_was_opened(theirs, victim, tmp_path):
    """Also when its name means another folder by now."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with ImageFile(theirs / "img") as file:
        theirs.rename(tmp_path / "moved")
        theirs.symlink_to(elsewhere)
        file.keep(MANIFEST)
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == ["img", "img.imgmanifest"]
    assert list(elsewhere.iterdir()) == []


def test_what_is_theirs_by_now_is_not_removed(theirs):
    with ImageFile(theirs / "img"):
        (path,) = theirs.iterdir()
        path.rename(theirs / "kept")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_a_link_with_the_images_name_is_replaced_and_not_followed(theirs, victim):
    for name in ("img", "img.imgmanifest"):
        (theirs / name).symlink_to(victim)
    with ImageFile(theirs / "img") as file:
        os.write(file.descriptor, CONTENT)
        file.keep(MANIFEST)
    assert victim.read_bytes() == SECRET
    assert (theirs / "img").read_bytes() == CONTENT


# -- each defence by itself, where another one has failed ----------------------------------------------------


@pytest.mark.parametrize("plant", ["link", "file"])
def test_a_name_that_somebody_has_guessed_is_not_taken(theirs, victim, monkeypatch, plant):
    monkeypatch.setattr(image_files.secrets, "token_hex", lambda size: "guessed")
    planted = theirs / ".imgctl-guessed.partial"
    if plant == "link":
        planted.symlink_to(victim)
    else:
        planted.write_text("theirs")
    with pytest.raises(FileExistsError):
        ImageFile(theirs / "img").__enter__()
    assert victim.read_bytes() == SECRET
    assert plant == "link" or planted.read_text() == "theirs"


def test_a_link_to_the_very_file_is_not_renamed(theirs):
    """It would be theirs to turn elsewhere later."""
    with ImageFile(theirs / "img") as file:
        (path,) = theirs.iterdir()
        path.rename(theirs / "moved")
        path.symlink_to("moved")
        with pytest.raises(CommandError, match="somebody else has put another file in the place of"):
            file.keep(None)
    assert not (theirs / "img").is_symlink()


def test_a_file_that_is_replaced_between_the_look_and_the_renaming(theirs, monkeypatch):
    real = os.rename

    def late(old, new, **folders):
        (path,) = theirs.glob(".imgctl-*")
        path.unlink()
        path.write_text("theirs")
        real(old, new, **folders)

    with ImageFile(theirs / "img") as file:
        monkeypatch.setattr(image_files.os, "rename", late)
        with pytest.raises(CommandError, match="somebody else has put another file in the place of"):
            file.keep(None)
        monkeypatch.undo()


def test_a_disk_that_looks_like_another_format_is_raw(theirs, victim, tmp_path):
    """A qcow2 with a backing file would have qemu-img read that, as root."""
    trap = tmp_path / "trap"
    options = ["-q", "-f", "qcow2", "-F", "raw", "-b", str(victim)]
    subprocess.run(["qemu-img", "create", *options, str(trap), "1M"], check=True)
    content = trap.read_bytes().ljust(1 << 20, b"\0")
    with ImageFile(theirs / "img") as file:
        os.write(file.descriptor, content)
        file.convert_to_qcow2()
        file.keep(None)
    assert disk_of(theirs / "img.qcow2", tmp_path) == content
