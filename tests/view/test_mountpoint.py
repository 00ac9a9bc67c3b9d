"""The link to the view: made where it can be, never over anything, and never a reason not to start."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from imgstored.view import mountpoint


def made(place, view):
    with capture_logs() as logs:
        mountpoint.make_link(place, view)
    return [entry["event"] for entry in logs]


@pytest.fixture
def view(tmp_path):
    return tmp_path / "var" / "images"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "images"


def test_it_is_made_and_made_anew_and_stays(place, view):
    for _ in range(2):
        assert made(place, view) == ["linked"]
        assert place.readlink() == view
        assert made(place, view) == []
        place.unlink()


def test_a_link_that_leads_there_by_another_name_is_ours(place, view):
    place.symlink_to("var/../var/images/")
    assert made(place, view) == []
    assert str(place.readlink()) == "var/../var/images"


@pytest.mark.parametrize("what", ["folder", "full folder", "file", "link", "dangling link", "fifo"])
def test_what_is_there_is_left_alone(place, view, tmp_path, what):
    match what:
        case "folder":
            place.mkdir()
        case "full folder":
            place.mkdir()
            (place / "treasure").write_text("gold")
        case "file":
            place.write_text("mine")
        case "link":
            (tmp_path / "other").mkdir()
            place.symlink_to(tmp_path / "other")
        case "dangling link":
            place.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(place)
    before = os.lstat(place)
    assert made(place, view) == ["the link to the view is not made: something else is in its place"]
    after = os.lstat(place)
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
    )
    assert not view.exists()


def test_where_it_cannot_be(view, tmp_path):
    assert made(tmp_path / "none" / "images", view) == ["the link to the view cannot be made"]
    (tmp_path / "file").touch()
    assert made(tmp_path / "file" / "images", view) == ["the link to the view cannot be made"]


def test_the_view_itself_is_its_place(place):
    place.mkdir()
    assert made(place, place / ".." / "images") == []
    assert place.is_dir()
    assert not place.is_symlink()
