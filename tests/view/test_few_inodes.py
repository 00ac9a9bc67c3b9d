"""The plain view on a file system that takes no more files: late, never by half, and no reason to fail."""

from __future__ import annotations

import json
import time

import pytest
import trio
from structlog.testing import capture_logs

from imgstored.errors import ConfigError
from imgstored.view.files import FilesView
from imgstored.view.plain import PlainFolder
from imgstored.view.tree import tree_of
from tests.support.full import few_inodes
from tests.view.images import image, uuid

IMAGES = [image(n, f"n{n}", origin=n + 1) for n in range(1, 5)]


@pytest.fixture
def small(tmp_path):
    with few_inodes(tmp_path / "small") as small:
        (tmp_path / "small" / "images").mkdir()
        yield small


def whole(place):
    """Checks that all that is shown is whole and named, and returns the images' uuids."""
    shown = {
        path.name for path in place.iterdir() if not path.name.startswith(".") and path.name != "by-name"
    }
    for name in shown:
        assert json.loads((place / name / "manifest.json").read_bytes())["uuid"] == name
        assert {path.name for path in (place / name).iterdir()} >= {"manifest.json", "origin"}
    named = [link for folder in (place / "by-name").iterdir() for link in folder.iterdir()]
    for link in named:
        assert link.resolve().name in shown
    assert all(any(folder.iterdir()) for folder in (place / "by-name").iterdir())
    assert not [path.name for path in place.iterdir() if path.name.startswith((".new", ".old"))]
    return shown


@pytest.mark.parametrize("free", range(12))
def test_at_whatever_point_they_are_used_up(small, free):
    place = small.folder / "images"
    folder = PlainFolder(place)
    try:
        tree = tree_of([], time.time_ns)
        folder.synchronise(tree)
        small.leave(free)
        with capture_logs() as logs:
            folder.update(tree, tree.add(IMAGES[0]).paths)
        shown = whole(place)
        assert shown <= {uuid(1)}
        behind = [entry["error"] for entry in logs if entry["event"] == "the view is behind"]
        assert bool(behind) == (free < 5)
        if behind:
            assert "no free inodes" in behind[0]
        small.leave(100)
        folder.update(tree, tree.add(IMAGES[1]).paths)
        assert whole(place) == {uuid(1), uuid(2)}
        assert (place / "by-name" / "n1" / "1.1" / "manifest.json").is_file()
    finally:
        folder.close()


def test_an_image_that_changes_stays_as_it_was(small):
    place = small.folder / "images"
    folder = PlainFolder(place)
    try:
        tree = tree_of(IMAGES[:1], time.time_ns)
        folder.synchronise(tree)
        before = (place / uuid(1) / "manifest.json").read_bytes()
        small.leave(2)
        folder.update(tree, tree.add(image(1, "n1", origin=2, notes="new")).paths)
        assert whole(place) == {uuid(1)}
        assert (place / uuid(1) / "manifest.json").read_bytes() == before
        folder.update(tree, tree.remove(IMAGES[0]).paths)
        assert whole(place) == set()
    finally:
        folder.close()


@pytest.mark.parametrize("free", [0, 1])
def test_a_folder_that_cannot_be_made(small, free):
    """The folder itself, and what it has in it."""
    small.leave(free)
    with pytest.raises(ConfigError, match="no free inodes") as caught:
        PlainFolder(small.folder / "other" / "images")
    assert "free space" in caught.value.hint


@pytest.mark.parametrize("free", range(4))
async def test_the_view_starts_without_and_shows_all_once_there_is_room(small, free):
    place = small.folder / "images"
    small.leave(free)
    view = FilesView(place)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(view.run, lambda: IMAGES[:2])
            await view.add(IMAGES[2])
            small.leave(100)
            await view.add(IMAGES[3])
            nursery.cancel_scope.cancel()
    assert whole(place) == {uuid(number) for number in range(1, 5)}
    said = [entry for entry in logs if entry["log_level"] == "error"]
    assert "no free inodes" in str(said[0])
