from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl import event_text
from imgproto.events import StoreEventDocument

from tests.ctl.test_table import json_values
from tests.support import events

U = "11111111-aaaa-4bbb-8ccc-000000000001"
MAKERS = [events.Maker(shape) for shape in get_args(StoreEventDocument)]
KINDS = [maker.kind for maker in MAKERS]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (events.AlreadyInstalled(U, "n", "1"), f"Image {U} (n 1) is already installed, skipping"),
        (events.Importing(U, "n", "1", "http://h"), f'Importing {U} (n@1) from "http://h"'),
        (
            events.Importing(U, "n", "1", "http://h", "dev"),
            f'Importing {U} (n@1) from "http://h", channel "dev"',
        ),
        (events.Installing(U, "n", "1"), f"Installing image {U} (n@1)"),
        (events.GatheringAncestry(U), f"Gather image {U} ancestry"),
        (events.AncestorInstalled(U), f"Image {U} already installed"),
        (events.Planned(1, 83_263_488), "Must download and install 1 image (79.4 MiB)"),
        (events.Planned(2, None), "Must download and install 2 images"),
        (
            events.Resumed(U, 12_900_000, 83_263_488),
            f"Resuming image {U}: 12.3 MiB of 79.4 MiB are there already",
        ),
        (events.Resumed(U, 12_900_000, None), f"Resuming image {U}: 12.3 MiB are there already"),
        (events.Downloaded(U, 83_263_488), f"Downloaded image {U} (79.4 MiB)"),
        (events.WaitingForLock(U), f"Waiting for image {U} import lock"),
        (events.InstalledMeanwhile(U, "n", "1"), f"Image {U} (n@1) was imported while waiting on lock"),
        (
            events.InstalledMeanwhile(U, "n", "1", from_file=True),
            f"Image {U} (n@1) was installed while waiting on lock",
        ),
        (events.Installed(U, "n", "1"), f"Imported image {U} (n@1)"),
        (events.NotInSources(U), f"warning: Could not find image {U} in image sources (skipping)"),
        (events.ManifestUpdated(U, "p", "s", None), f'Added manifest info for image {U} from "s"'),
        (
            events.ManifestUpdated(U, "p", "s", ["a", "b\n"]),
            f'Updated 2 manifest fields for image {U} from "s": a, b\\n',
        ),
        (
            events.SnapshotRenamed(U, "p", "x"),
            f"Renamed image {U} original snapshot from p/{U}@x to p/{U}@final",
        ),
        (events.Installed(U, "n", "1", from_file=True), f"Installed image {U} (n@1)"),
        (events.Installed(U, "\x1b[31m", "1\n2"), f"Imported image {U} (\\x1b[31m@1\\n2)"),
    ],
)
def test_the_line_of_an_event(event, line):
    assert event_text.line(event) == line


def test_every_event_of_the_daemon_is_told():
    told = {kind for kind in KINDS if kind in event_text._LINES}
    # Only a program that holds an image is told that it is held; `update` says what went wrong elsewhere.
    elsewhere = {"progress", "note", "held", "verifying", "original-unknown", "update-failed"}
    assert told | elsewhere == set(KINDS)


def test_what_is_not_known_has_no_line():
    assert event_text.line({"event": "new"}) is None
    assert event_text.line({}) is None


fields = sorted({name for maker in MAKERS for name in maker.fields})


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(fields), json_values))
def test_odd_fields_make_an_odd_line_but_only_one(kind, values):
    line = event_text.line({**values, "event": kind})
    assert line is None or line.isprintable()


def test_an_abort_has_the_message():
    assert event_text.abort("no\x1b") == "Aborting (no\\x1b)"


def progress(*phases: str, done: int = 5, total: int | None = 10):
    return {"images": [{"phase": phase} for phase in phases], "done": done, "total": total}


@pytest.mark.parametrize(
    ("event", "label"),
    [
        (progress("downloading"), "Download 1 image"),
        (progress("receiving", "waiting"), "Download 2 images"),
        (progress("downloading", done=10), "Installing"),
        (progress("verifying", "installed"), "Installing"),
        (progress("verifying"), "Verifying"),
        (progress("downloading", total=None), "Download 1 image"),
        (progress("receiving", total=None), "Installing"),
    ],
)
def test_what_the_bar_is_about(event, label):
    assert event_text.bar_label(event) == label


def test_a_numbered_event_on_terminals():
    event = {"number": 23, "at": "2026-11-29T10:00:16.014Z", "event": "installed", "uuid": "3dbbdcca-2eab",
             "name": "web", "version": "1.2", "pool": "zones", "bytes": 1 << 24}  # fmt: skip
    head = "    23  2026-11-29T10:00:16Z  installed         "
    assert event_text.numbered_line(event) == f"{head}web@1.2 3dbbdcca-2eab in zones 16.0 MiB"
    assert event_text.numbered_line(event, 100) == f"{head}web@1.2 3dbbdcca in zones 16.0 MiB"
    assert event_text.numbered_line(event, 40) == "23 10:00:16 installed web@1.2 in zones 16.0 MiB"
    assert event_text.numbered_line({**event, "name": None, "version": None}, 40).startswith(
        "23 10:00:16 installed 3dbbdcca in zones"
    )
