"""What `imgctl verify` prints, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from imgctl.listing import with_new_keys

from tests.support.events import ImageProgress, Progress, Verified, Verifying

if TYPE_CHECKING:
    from imgproto.documents import Result

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"


def verified(result: Result, reason: str = "") -> Verified:
    return Verified(UUID, "zones", "base", "1.0", result, reason)


@pytest.mark.parametrize(
    ("events", "lines", "status"),
    [
        ([], ["Verified 0 images"], 0),
        ([verified("ok")], [f"Image {UUID} (base@1.0) in zones is ok", "Verified 1 image: 1 ok"], 0),
        (
            [verified("unknown", "not ours")],
            [f"Image {UUID} (base@1.0) in zones is unknown: not ours", "Verified 1 image: 1 unknown"],
            0,
        ),
        (
            [verified("damaged", "rot\x1b[2J"), verified("ok"), verified("ok"), verified("lost", "gone")],
            [
                f"Image {UUID} (base@1.0) in zones is damaged: rot\\x1b[2J",
                f"Image {UUID} (base@1.0) in zones is ok",
                f"Image {UUID} (base@1.0) in zones is ok",
                f"Image {UUID} (base@1.0) in zones is lost: gone",
                "Verified 4 images: 2 ok, 1 damaged, 1 lost",
            ],
            1,
        ),
    ],
)
def test_lines(daemon, imgctl, events, lines, status):
    daemon.verifier.events = [Verifying(UUID, "zones", "base", "1.0", 5), *events]
    done = imgctl("verify")
    assert (done.stdout.splitlines(), done.returncode, done.stderr) == (lines, status, "")


def test_strictly(daemon, imgctl):
    daemon.verifier.events = [verified("ok")]
    assert imgctl("verify", "--strict").returncode == 0
    daemon.verifier.events = [verified("ok"), verified("unknown", "not ours")]
    assert imgctl("verify", "--strict").returncode == 1
    assert imgctl("verify", UUID).returncode == 0


def test_what_was_recorded_is_no_fault(daemon, imgctl):
    daemon.verifier.events = [verified("recorded")]
    done = imgctl("verify", "--record", "--strict", UUID)
    assert (done.stdout.splitlines(), done.returncode) == (
        [f"Image {UUID} (base@1.0) in zones is recorded", "Verified 1 image: 1 recorded"],
        0,
    )
    assert daemon.verifier.asked == [{"uuids": [UUID], "pool": None, "record": True}]


def test_what_is_asked(daemon, imgctl):
    imgctl("verify", "-P", "zones")
    imgctl("verify", UUID, UUID)
    assert daemon.verifier.asked == [
        {"uuids": None, "pool": "zones"},
        {"uuids": [UUID, UUID], "pool": None},
    ]


def test_json_is_an_event_a_line(daemon, imgctl):
    progress = Progress(1, 5, 0.5, [ImageProgress(UUID, "base", "1.0", "verifying", 1, 5, 1)])
    daemon.verifier.events = [progress, verified("changed", "why")]
    done = imgctl("verify", "-j")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == with_new_keys(json.loads(json.dumps(verified("changed", "why"))))
    assert events[0]["event"] == "progress"
    assert done.returncode == 1
