"""The folder of plain files: whose it is, and what is left of a crash."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import structlog

from imgstored.errors import ConfigError
from imgstored.host import lock_holders
from imgstored.view import plain
from imgstored.view.plain import PlainFolder, withdraw
from imgstored.view.tree import tree_of
from tests.support.other_user import LOCK, UID, OtherUser
from tests.view.images import image, uuid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage


def synchronise(place: Path, images: Iterable[InstalledImage]) -> list[str]:
    """Makes the folder show the images; returns what was logged, with the path it was about."""
    folder = PlainFolder(place)
    try:
        with structlog.testing.capture_logs() as logs:
            folder.synchronise(tree_of(images, time.time_ns))
    finally:
        folder.close()
    return [f"{line['event']}: {os.path.relpath(line['path'], place)}" for line in logs]


def snapshot(place: Path) -> dict[str, object]:
    """Everything in the folder, and which inode it is."""
    return {
        str(path.relative_to(place)): (
            path.lstat().st_ino,
            str(path.readlink()) if path.is_symlink() else None,
        )
        for path in place.rglob("*")
    }


def test_what_is_there_and_right_is_left_as_it_is(place):
    images = [image(1), image(2, "a/b", origin=1)]
    synchronise(place, images)
    before = snapshot(place)
    assert synchronise(place, images) == []
    assert snapshot(place) == before


def test_what_is_stale_goes_and_what_is_damaged_is_made_anew(place):
    synchronise(place, [image(n, f"n{n}", origin=9) for n in range(6)])
    wanted = [image(n, f"n{n}", origin=9) for n in (1, 2, 3, 4)] + [image(5, "renamed")]
    for number in (1, 2, 3, 4):
        (place / uuid(number)).chmod(0o700)
    (place / uuid(1) / "manifest.json").chmod(0o600)
    (place / uuid(1) / "manifest.json").write_text("{}")
    (place / uuid(2) / "manifest.json").unlink()
    (place / uuid(2) / "manifest.json").symlink_to("/etc/passwd")
    (place / uuid(3) / "more").mkdir()
    (place / uuid(4) / "origin").unlink()
    (place / "by-name" / "n1" / "1.1").unlink()
    assert synchronise(place, wanted) == []
    shown = {path.name for path in place.iterdir()}
    assert shown == {".imgstored", "by-name", *map(uuid, (1, 2, 3, 4, 5))}
    for one in wanted:
        folder = place / one.uuid
        assert json.loads((folder / "manifest.json").read_bytes()) == one.manifest
        assert not (folder / "manifest.json").is_symlink()
        assert {path.name for path in folder.iterdir()} == {"manifest.json"} | (
            {"origin"} if one.origin else set()
        )
    links = {str(path.relative_to(place / "by-name")) for path in (place / "by-name").rglob("*")}
    assert links == {"n1", "n1/1.1", "n2", "n2/1.2", "n3", "n3/1.3", "n4", "n4/1.4", "renamed", "renamed/1.5"}


@pytest.mark.parametrize("exact", [True, False], ids=["times are kept", "times are cut off"])
def test_names_that_came_or_went_are_found_with_and_without_exact_times(place, exact):
    """A start looks through a folder only if it has changed since it was made, by the file system's times."""
    images = [image(n, f"n{n}", origin=9) for n in range(3)]
    synchronise(place, images)
    if not exact:
        for one in images:
            os.utime(place / one.uuid, ns=(0, 10**9))
    (place / uuid(0)).chmod(0o700)
    (place / uuid(0) / "more").write_text("of somebody")
    (place / uuid(1)).chmod(0o700)
    (place / uuid(1) / "origin").rename(place / uuid(1) / "other")
    before = snapshot(place / uuid(2))
    assert synchronise(place, images) == []
    for one in images:
        assert {path.name for path in (place / one.uuid).iterdir()} == {"manifest.json", "origin"}
    assert snapshot(place / uuid(2)) == before


def test_what_is_somebody_elses_is_left_alone(place, tmp_path):
    (tmp_path / "treasure").mkdir()
    (tmp_path / "treasure" / "gold").touch()
    synchronise(place, [image(1)])
    (place / "letter").write_text("mine")
    (place / "folder").mkdir()
    (place / uuid(7)).symlink_to(tmp_path / "treasure")
    (place / uuid(8)).write_text("a file")
    (place / "by-name" / "note").write_text("mine")
    (place / "by-name" / "base" / "mine").write_text("mine")
    (place / "by-name" / "base" / "away").symlink_to("/etc")
    (place / "by-name" / "linked").symlink_to(tmp_path / "treasure")
    foreign = {"letter", "folder", uuid(7), uuid(8), *(f"by-name/{name}" for name in ("note", "linked"))}
    foreign |= {"by-name/base/mine", "by-name/base/away"}
    assert set(synchronise(place, [])) == {f"left alone in the view's folder: {name}" for name in foreign}
    assert set(snapshot(place)) == foreign | {".imgstored", "by-name", "by-name/base"}
    assert [path.name for path in (tmp_path / "treasure").iterdir()] == ["gold"]


def test_what_is_in_the_way_is_not_written_over(place, tmp_path):
    (tmp_path / "treasure").mkdir()
    synchronise(place, [])
    (place / uuid(1)).symlink_to(tmp_path / "treasure")
    (place / uuid(2)).write_text("a file")
    (place / "by-name" / "n3").symlink_to(tmp_path / "treasure")
    (place / "by-name" / "n4").mkdir()
    (place / "by-name" / "n4" / "1.4").symlink_to("/etc")
    logs = synchronise(place, [image(n, f"n{n}") for n in range(1, 6)])
    behind = {line.split(": ")[1] for line in logs if line.startswith("the view is behind")}
    assert behind == {uuid(1), uuid(2), "by-name/n3/1.3", "by-name/n4/1.4"}
    assert (place / uuid(2)).read_text() == "a file"
    assert list((tmp_path / "treasure").iterdir()) == []
    assert str((place / "by-name" / "n4" / "1.4").readlink()) == "/etc"
    assert json.loads((place / "by-name/n5/1.5/manifest.json").read_bytes()) == image(5, "n5").manifest


def test_what_failed_is_made_when_it_can_be(place):
    folder = PlainFolder(place)
    try:
        tree = tree_of([], time.time_ns)
        folder.synchronise(tree)
        (place / uuid(1)).write_text("in the way")
        folder.update(tree, tree.add(image(1)).paths)
        assert (place / uuid(1)).is_file()
        (place / uuid(1)).unlink()
        folder.update(tree, tree.add(image(2)).paths)
        assert (place / uuid(1) / "manifest.json").is_file()
        assert (place / uuid(2) / "manifest.json").is_file()
    finally:
        folder.close()


def test_two_do_not_keep_the_same_folder(place):
    folder = PlainFolder(place)
    try:
        with pytest.raises(ConfigError, match="another imgstored keeps"):
            PlainFolder(place)
    finally:
        folder.close()
    PlainFolder(place).close()


def test_a_folder_that_is_not_ours_is_refused(place):
    (place / uuid(1)).mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"not empty: it has {uuid(1)}") as caught:
        PlainFolder(place)
    assert caught.value.hint
    withdraw(place)
    assert (place / uuid(1)).is_dir()


def test_the_marker_is_for_nobody_else_to_lock(place):
    """Whoever can read a file can lock it, and the next start would find it taken."""
    PlainFolder(place).close()
    assert stat.S_IMODE((place / ".imgstored").stat().st_mode) == 0o600
    if os.geteuid() != UID:
        with pytest.raises(RuntimeError), OtherUser(place, LOCK, ".imgstored", "flock", "LOCK_EX"):
            pass


@pytest.mark.parametrize("kind", ["LOCK_EX", "LOCK_SH"])
def test_a_marker_that_all_could_read_is_replaced_whoever_has_its_lock(place, kind):
    """As imgstored made it once."""
    synchronise(place, [image(1)])
    marker = place / ".imgstored"
    marker.chmod(0o644)
    for folder in (place, *place.parents[:2]):
        folder.chmod(0o755)
    if os.geteuid() == UID:
        return  # another process of the same user is another imgstored
    with OtherUser(place, LOCK, ".imgstored", "flock", kind):
        for _ in range(3):
            assert synchronise(place, [image(1)]) == []
            assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    assert {path.name for path in place.iterdir()} == {".imgstored", "by-name", uuid(1)}


def test_where_nobody_tells_who_has_the_lock_it_is_replaced_too(place, monkeypatch):
    synchronise(place, [])
    (place / ".imgstored").chmod(0o644)
    monkeypatch.setattr(lock_holders, "_LOCKS", place / "nosuch")
    with (place / ".imgstored").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert synchronise(place, [image(1)]) == []


def test_a_marker_that_another_imgstored_has_is_never_replaced(place):
    held = PlainFolder(place)
    (place / ".imgstored").chmod(0o644)
    with pytest.raises(ConfigError, match=rf"another imgstored keeps {place}: pid {os.getpid()} \("):
        PlainFolder(place)
    held.close()
    PlainFolder(place).close()
    assert stat.S_IMODE((place / ".imgstored").stat().st_mode) == 0o600


def test_a_file_system_that_keeps_no_permissions_does(place, monkeypatch):
    monkeypatch.setattr(plain, "_is_private", lambda _: False)
    assert synchronise(place, [image(1)]) == []
    with closing(PlainFolder(place)), pytest.raises(ConfigError, match="another imgstored keeps"):
        PlainFolder(place)


def test_a_marker_that_is_a_link_is_no_marker(place, tmp_path):
    place.mkdir()
    (place / ".imgstored").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot use"):
        PlainFolder(place)
    assert not (tmp_path / "elsewhere").exists()


def test_withdrawing_leaves_what_is_not_ours(place):
    synchronise(place, [image(1), image(2)])
    withdraw(place)
    assert list(place.iterdir()) == []
    synchronise(place, [image(1)])
    (place / "by-name" / "mine").touch()
    withdraw(place)
    assert set(snapshot(place)) == {".imgstored", "by-name", "by-name/mine"}


#: Adds and removes images until it is killed.
CHANGER = """
import itertools, sys, time
from pathlib import Path
from imgstored.view.plain import PlainFolder
from imgstored.view.tree import tree_of
from tests.view.images import image
folder, tree = PlainFolder(Path(sys.argv[1])), tree_of([], time.time_ns)
folder.synchronise(tree)
print("ready", flush=True)
notes = ["x" * 100] * 500
images = [image(n, "base", "1", origin=n + 1, notes=notes, published=f"20{n}") for n in range(10, 14)]
for one in itertools.cycle(images):
    folder.update(tree, tree.add(one).paths)
    folder.update(tree, tree.remove(images[images.index(one) - 2]).paths)
"""


def test_after_kill_9_every_image_is_whole_and_the_next_start_puts_it_right(place):
    for round_ in range(5):
        process = subprocess.Popen([sys.executable, "-c", CHANGER, str(place)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + round_ * 0.013)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in place.iterdir():
            if not path.name.startswith(".") and path.name != "by-name":
                assert json.loads((path / "manifest.json").read_bytes())["uuid"] == path.name
                assert (path / "origin").is_symlink()
        assert synchronise(place, [image(3)]) == []
        assert {path.name for path in place.iterdir()} == {".imgstored", "by-name", uuid(3)}
        assert synchronise(place, []) == []
