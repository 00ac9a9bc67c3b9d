"""Who wants a layer, and what it tells."""

from __future__ import annotations

import json

import pytest
import trio

from imgstored.errors import CancelledError, DownloadError
from imgstored.manifest import load
from imgstored.store.events import Downloaded, Installed, Note
from imgstored.store.gauge import Reading
from imgstored.store.layer import MAX_NOTES, Layer
from tests.support.image_site import BASE, DATA


@pytest.fixture
def layer():
    manifest = load(json.loads((DATA / "base.imgmanifest").read_bytes()), rules="import")
    return Layer("zones", manifest, "http://x")


async def test_the_last_to_leave_ends_it(layer):
    layer.join("a", "first")
    layer.join("b", "second")
    assert layer.clients == ["first", "second"]
    layer.leave("a")
    assert not layer.scope.cancel_called
    layer.leave("b")
    assert layer.scope.cancel_called
    assert layer.cancelled_because == "nobody wants it any more"


def test_who_listens_late_hears_what_was_said(layer):
    layer.emit(Note("early"))
    heard = []
    layer.listen(heard.append)
    layer.emit(Downloaded(BASE, 10))
    layer.unlisten(heard.append)
    layer.emit(Note("late"))
    assert heard == [Note("early"), Downloaded(BASE, 10)]


def test_notes_are_bounded(layer):
    heard = []
    layer.listen(heard.append)
    for number in range(3 * MAX_NOTES):
        layer.emit(Note(str(number)))
    layer.emit(Downloaded(BASE, 10))
    assert len(heard) == MAX_NOTES + 1


@pytest.mark.parametrize(
    ("error", "phase"),
    [(None, "installed"), (CancelledError("x"), "cancelled"), (DownloadError("x"), "failed")],
)
async def test_how_it_ends(layer, error, phase):
    heard = []
    layer.listen(heard.append)
    layer.end(error, from_file=False)
    with trio.fail_after(10):
        await layer.finished.wait()
    assert layer.phase == phase
    assert heard == ([Installed(BASE, "base", "1.0.0")] if error is None else [])
    layer.cancel("too late")
    assert not layer.scope.cancel_called
    assert layer.as_job(Reading(0.0, None, None))["error"] == (None if error is None else "x")


def test_a_chain_goes_down_to_the_base(layer):
    top = Layer("zones", layer.manifest, None, origin=layer)
    assert list(top.chain()) == [top, layer]
