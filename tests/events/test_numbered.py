"""What clients of `events` and hooks get to know of each event of the store."""

from __future__ import annotations

from typing import get_args

import pytest
from imgproto.events import NumberedName

from imgstored.errors import DownloadError, PoolError
from imgstored.events.numbered import numbered
from imgstored.events.stream import (
    Action,
    CacheHit,
    DaemonChanged,
    Ended,
    HoldChanged,
    HookEnded,
    ImportEvent,
    Mirrored,
    PhaseChanged,
    Refused,
    Requester,
    SourceChanged,
    Started,
)
from tests.support.events import Note

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
BRINGS = Action("import", UUID, "base", "1", "zones", "http://h", "abc")
DELETES = Action("delete", UUID, "base", "1", "zones")
ME = Requester("me", 7)
OF_IMAGE = {"uuid": UUID, "name": "base", "version": "1", "pool": "zones"}
OF_IMPORT = {**OF_IMAGE, "source": "http://h", "import_id": "abc"}
WHY = {"code": "DownloadError", "message": "broken"}
BROKEN = DownloadError("broken")
URL = "http://h"

CASES = [
    (Started(BRINGS, ME), {"event": "import-started", **OF_IMPORT, "client": "me", "uid": 7}),
    (PhaseChanged(BRINGS, "downloading"), {"event": "downloading", **OF_IMPORT}),
    (PhaseChanged(BRINGS, "receiving"), {"event": "receiving", **OF_IMPORT}),
    (PhaseChanged(BRINGS, "installing"), {"event": "installing", **OF_IMPORT}),
    (Ended(BRINGS, "installed", size=5), {"event": "installed", **OF_IMPORT, "bytes": 5}),
    (Ended(BRINGS, "failed", BROKEN, size=5), {"event": "import-failed", **OF_IMPORT, **WHY, "bytes": 5}),
    (Ended(BRINGS, "cancelled"), {"event": "import-cancelled", **OF_IMPORT}),
    (Ended(BRINGS, "interrupted"), {"event": "import-interrupted", **OF_IMPORT}),
    (
        Refused(BRINGS, ME, BROKEN),
        {"event": "import-failed", **OF_IMPORT, "client": "me", "uid": 7, **WHY},
    ),
    (Ended(DELETES, "deleted"), {"event": "deleted", **OF_IMAGE}),
    (Ended(DELETES, "failed", BROKEN), {"event": "delete-failed", **OF_IMAGE, **WHY}),
    (
        HoldChanged(True, "web", *OF_IMAGE.values(), Requester("imgstored")),
        {"event": "held", **OF_IMAGE, "tag": "web", "client": "imgstored"},
    ),
    (
        HoldChanged(False, "web", *OF_IMAGE.values(), ME),
        {"event": "released", **OF_IMAGE, "tag": "web", "client": "me", "uid": 7},
    ),
    (
        HoldChanged(True, "pinned", *OF_IMAGE.values(), ME),
        {"event": "pinned", **OF_IMAGE, "tag": "pinned", "client": "me", "uid": 7},
    ),
    (
        HoldChanged(False, "pinned", *OF_IMAGE.values(), ME),
        {"event": "unpinned", **OF_IMAGE, "tag": "pinned", "client": "me", "uid": 7},
    ),
    (SourceChanged(URL, BROKEN), {"event": "source-down", "source": URL, **WHY}),
    (SourceChanged(URL, None), {"event": "source-up", "source": URL}),
    (Mirrored(URL, 3, 1), {"event": "mirrored", "source": URL, "new": 3, "failed": 1}),
    (
        Mirrored(URL, error=BROKEN),
        {"event": "mirror-failed", "source": URL, "new": 0, "failed": 0, **WHY},
    ),
    (DaemonChanged(True, "0.1", 9), {"event": "daemon-started", "version": "0.1", "pid": 9}),
    (DaemonChanged(False, "0.1", 9), {"event": "daemon-stopping", "version": "0.1", "pid": 9}),
]


@pytest.mark.parametrize(("event", "facts"), CASES)
def test_what_is_said(event, facts):
    assert numbered(event) == facts


def test_each_name_has_its_event():
    """But for the one that the log writes by itself."""
    assert {facts["event"] for _, facts in CASES} == {*get_args(NumberedName)} - {"events-lost"}


@pytest.mark.parametrize(
    "event",
    [
        Started(DELETES, ME),
        PhaseChanged(BRINGS, "installed"),
        ImportEvent(BRINGS, Note("slow")),
        CacheHit("joined"),
        HookEnded("/bin/true", "ok"),
    ],
)
def test_what_is_not_said(event):
    assert numbered(event) is None


def test_texts_of_others_are_bounded():
    long = Action("import", UUID, "n" * 5000, "v" * 5000, "zones")
    facts = numbered(Ended(long, "failed", PoolError("m" * 5000)))
    assert facts is not None
    assert [len(facts[key]) for key in ("name", "version", "message")] == [1000, 1000, 2000]
