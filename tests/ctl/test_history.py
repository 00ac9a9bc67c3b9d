"""`history`, and what `import --dry-run` says."""

from __future__ import annotations

import json

import pytest
from imgctl.event_text import plan_lines
from imgctl.listing import with_new_keys

U = "11111111-aaaa-4bbb-8ccc-000000000001"
V = "11111111-aaaa-4bbb-8ccc-000000000002"
MIB = 1 << 20


def entry(**fields):
    return {
        "action": "import",
        "uuid": U,
        "name": "base",
        "version": "1.0",
        "pool": "zones",
        "source": "https://images.example.com",
        "client": "imgctl 1.0 (pid 7)",
        "uid": 0,
        "started_at": 1_750_000_000.5,
        "bytes": 3 * MIB,
        "seconds": 1.234,
        "outcome": "installed",
        "code": None,
        "message": None,
        **fields,
    }


@pytest.fixture
def past(daemon):
    daemon.queries.past = [
        entry(),
        entry(
            uuid=V, version="2.0", outcome="failed", seconds=12.0, code="DownloadError", message="gone\x1b[2J"
        ),
        entry(action="delete", uid=None, source=None, bytes=None, seconds=None, outcome=None),
    ]


def test_history(daemon, imgctl, past):
    shown = imgctl("history", env={**imgctl.environment, "TZ": "UTC"})
    assert shown.returncode == 0
    header, *rows = (line.split("  ") for line in shown.stdout.splitlines())
    assert [word.strip() for word in header if word] == [
        "WHEN", "ACTION", "UUID", "NAME", "VERSION", "ZPOOL", "SIZE", "TOOK", "OUTCOME",
    ]  # fmt: skip
    cells = [[cell.strip() for cell in row if cell] for row in rows]
    assert cells[0] == [
        "2025-06-15T15:06:40Z", "import", U, "base", "1.0", "zones", "3.0 MiB", "1.2s", "installed",
    ]  # fmt: skip
    assert cells[1][7:9] == ["12.0s", "failed"]
    assert cells[2][6:] == ["-", "-", "running"]
    wide = imgctl("history", "-o", "wide").stdout.splitlines()
    assert wide[0].endswith("  CLIENT                     SOURCE")
    assert wide[1].endswith("  imgctl 1.0 (pid 7), uid 0  https://images.example.com")
    assert wide[3].endswith("  imgctl 1.0 (pid 7)         -")
    assert shown.stderr == rf"imgctl history: warning: import of image {V} failed: gone\x1b[2J" + "\n"


def test_fields_that_are_none(daemon, imgctl, past):
    refused = imgctl("history", "-o", "bogus")
    assert refused.returncode == 1
    assert 'there is no field "bogus", nor is it a form' in refused.stderr
    assert "a field one of when, action, uuid," in refused.stderr
    assert imgctl("history", "-H", "-o", "bogus,action").stdout.splitlines()[0].split() == ["-", "import"]
    assert imgctl("history", "-o", "message").returncode == 0
    daemon.queries.past = []
    assert imgctl("history", "-o", "bogus").returncode == 0


def test_only_the_last_word_on_an_image_is_a_warning(daemon, imgctl):
    failed = {"outcome": "failed", "code": "DownloadError"}
    daemon.queries.past = [
        entry(**failed, message="gone"),
        entry(uuid=V, **failed, message="slow"),
        entry(uuid=V, **failed, message="slow"),
        entry(pool="tank", **failed, message="full"),
        entry(),
    ]
    assert imgctl("history").stderr.splitlines() == [
        f"imgctl history: warning: import of image {V} failed: slow",
        f"imgctl history: warning: import of image {U} failed: full",
    ]


def test_history_of_one_and_of_some(daemon, imgctl, past):
    assert json.loads(imgctl("history", "-j").stdout) == with_new_keys(daemon.queries.past)
    assert daemon.queries.asked[-1] == {"uuid": None, "limit": 20}
    imgctl("history", "-n", "7", "base@1.0")
    assert daemon.queries.asked[-2]["among"] == "history"
    imgctl("history", "-n7", U)
    assert daemon.queries.asked[-1] == {"uuid": U, "limit": 7}


@pytest.mark.parametrize("number", ["0", "-1", "x", "10001", "9" * 5000, "٣"])
def test_a_number_of_entries_that_is_none(imgctl, past, number):
    shown = imgctl("history", "-n", number)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "error (Usage): invalid number of entries" in shown.stderr


# -- the dry run ---------------------------------------------------------------------------------------------


def step(uuid, state="missing", **fields):
    return {
        "uuid": uuid,
        "name": "base",
        "version": "1.0",
        "state": state,
        "origin": None,
        "source": "https://h",
        "size": 2 * MIB,
        "present": 0,
        **fields,
    }


def plan(*images, **fields):
    missing = [image for image in images if image["state"] == "missing"]
    size = sum(image["size"] for image in missing)
    return {
        "uuid": U,
        "pool": "zones",
        "images": list(images),
        "count": len(missing),
        "size": size,
        "to_come": size - sum(image["present"] for image in missing),
        "room": {"spool": 10 * MIB, "pool": 20 * MIB},
        "refusals": [],
        "warnings": [],
        **fields,
    }


def test_a_plan():
    assert plan_lines(plan(step(U, present=MIB), step(V, "installed"))) == [
        f'Would import {U} (base@1.0) from "https://h": 2.0 MiB',
        f"Image {V} (base@1.0) is already installed in pool zones",
        "Would download and install 1 image (2.0 MiB)",
        "Of that 1.0 MiB are there from an earlier try",
        "Free: 20.0 MiB in pool zones, 10.0 MiB for downloads",
    ]
    assert plan_lines(plan(step(U, "under-way"))) == [
        f"Image {U} (base@1.0) is being imported into pool zones already: `imgctl watch` follows it",
        "Nothing else to download",
    ]
    unknown = plan_lines(plan(step(U), size=None))
    assert unknown[1] == "Would download and install 1 image"


def test_a_dry_run_prints_its_plan_and_imports_nothing(daemon, imgctl):
    daemon.queries.plans[U] = plan(step(U))
    shown = imgctl("import", "--dry-run", "-P", "zones", "-S", "http://a", "-C", "dev", U)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == plan_lines(daemon.queries.plans[U])
    assert daemon.queries.asked == [{"uuid": U, "pool": "zones", "sources": ["http://a"], "channel": "dev"}]
    assert json.loads(imgctl("import", "-nj", U).stdout) == with_new_keys(daemon.queries.plans[U])
    assert daemon.store.wishes == []


def test_what_would_refuse_it_is_the_error_of_a_dry_run(daemon, imgctl):
    refusals = [
        {"code": "NoSpace", "message": "not enough room", "hint": "make some", "exit_status": 1, "data": {}},
        {"code": "MinPlatform", "message": "too old", "hint": "", "exit_status": 1, "data": {}},
    ]
    daemon.queries.plans[U] = plan(step(U), refusals=refusals)
    shown = imgctl("import", "-n", U)
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[0].startswith("Would import")
    assert shown.stderr.splitlines() == [
        "imgctl import: warning: error (MinPlatform): too old",
        "imgctl import: error (NoSpace): not enough room",
        "  hint: make some",
    ]
