"""`status`: one glance at the daemon."""

from __future__ import annotations

import json
import re
import time
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.listing import with_new_keys
from imgctl.status_text import duration, problems, status_lines, top_lines

U, V = "11111111-aaaa-4bbb-8ccc-000000000001", "21111111-aaaa-4bbb-8ccc-000000000002"
GIB = 1 << 30
NOW = 1_795_000_000.0

POOL = {
    "name": "zones", "type": "zfs", "state": "ok", "health": "ONLINE", "total": 100 * GIB,
    "available": 60 * GIB, "error": None, "images": 3,
}  # fmt: skip
SOURCE = {
    "url": "https://images.example.com", "type": "imgapi", "answered_at": NOW - 190, "failed_at": None,
    "error": None, "listed_at": NOW - 7205,
}  # fmt: skip
JOB = {
    "import_id": "0a1b2c3d", "uuid": U, "name": "base", "version": "1.0", "pool": "zones",
    "phase": "downloading", "done": 25 << 20, "total": 100 << 20, "received": 0, "connections": 8,
    "source": "https://images.example.com", "clients": ["imgctl"], "started_at": NOW - 5, "error": None,
    "rate": 5.5 * (1 << 20), "limits": "network", "eta": 83.2,
}  # fmt: skip
WAITS = {
    **JOB, "uuid": V, "name": "web", "phase": "waiting", "done": 0, "total": None, "connections": 0,
    "rate": 0.0, "limits": "turn", "eta": None, "started_at": NOW - 50, "source": None,
}  # fmt: skip
STATUS: dict[str, Any] = {
    "version": "1.2.3", "pid": 77, "started_at": NOW - 273_600, "uptime": 273_600.0,
    "config": "/etc/imgstored.toml", "view": "fuse", "view_path": "/images",
    "clients": 2, "images": 3, "pools": [POOL],
    "sources": [SOURCE], "imports": [], "waiting": 0, "failures": [], "warnings": [],
    "problems": [],
}  # fmt: skip
SILENT = {
    **POOL, "name": "tank", "state": "no answer", "total": None, "available": None,
    "error": {"code": "PoolError", "message": 'pool "tank" does not answer', "hint": "see `zpool status`"},
}  # fmt: skip
DOWN = {
    **SOURCE, "url": "http://down", "answered_at": None, "failed_at": NOW - 90_000, "listed_at": None,
    "error": {"code": "ClientError", "message": "http://down/images: connection refused", "hint": ""},
}  # fmt: skip
FAILED = {
    "action": "import", "uuid": U, "name": "base", "version": "1.0", "pool": "zones", "source": None,
    "client": "x", "uid": 0, "started_at": NOW - 60, "bytes": 7, "seconds": 1.5, "outcome": "failed",
    "code": "DownloadError", "message": "no luck\n today",
}  # fmt: skip
WARNED = {"at": "2026-11-24T23:00:00Z", "level": "warning", "text": "a source failed: http://down"}


def status(**changes: Any) -> dict[str, Any]:
    return {**deepcopy(STATUS), **changes}


# -- the screen ----------------------------------------------------------------------------------------------


def test_all_is_well_and_quiet():
    assert status_lines(status(), NOW) == [
        "imgstored 1.2.3, pid 77, up 3d4h, 2 clients, 3 images",
        "Configuration: /etc/imgstored.toml; view: fuse (/images)",
        "",
        "POOL   TYPE  STATE  USED      FREE      TOTAL      IMAGES",
        "zones  zfs   ok     40.0 GiB  60.0 GiB  100.0 GiB  3",
        "",
        "SOURCE                      TYPE    STATE  ANSWERED   FAILED  LISTED",
        "https://images.example.com  imgapi  ok     3m10s ago  -       2h ago",
        "",
        "Nothing is being imported.",
    ]
    assert problems(status()) == []


def test_imports_failures_and_what_needs_attention():
    busy = status(
        pools=[POOL, SILENT],
        sources=[SOURCE, DOWN],
        imports=[WAITS, JOB],
        waiting=1,
        failures=[FAILED],
        warnings=[WARNED] * 7,
        config=None,
    )
    lines = status_lines(busy, NOW)
    assert "Configuration: none, every key has its default; view: fuse (/images)" in lines
    assert "tank   zfs   no-answer  -         -         -          3" in lines
    at = lines.index("2 imports under way, 1 of them waiting")
    # What is busy comes first.
    assert [re.split(" {2,}", line) for line in lines[at + 1 : at + 4]] == [
        ["UUID", "NAME", "ZPOOL", "PHASE", "DONE", "SIZE", "RATE", "CONNS", "LEFT", "LIMIT", "FROM"],
        [U, "base@1.0", "zones", "downloading", "25%", "100.0 MiB", "5.5 MiB/s", "8", "1m23s", "network",
         "https://images.example.com"],
        [V, "web@1.0", "zones", "waiting", "0 B", "-", "-", "0", "-", "turn", "a-file"],
    ]  # fmt: skip
    assert any(
        line.startswith("http://down") and " failing " in line and " 1d1h ago " in line for line in lines
    )
    assert any(re.search(rf"import +{U} +base@1\.0 +no luck today$", line) for line in lines)
    at = lines.index("Warned last (the daemon's log has more):")
    assert lines[at + 1 : at + 7] == ["  2026-11-24T23:00:00Z  a source failed: http://down"] * 5 + [""]
    assert lines[-4:] == [
        "Needs attention:",
        '  pool "tank" does not answer (see `zpool status`)',
        "  source http://down/images: connection refused",
        "  `imgctl sources -c` asks all sources again.",
    ]


def test_why_an_import_of_an_earlier_daemon_waits():
    down = {**WAITS, "import_id": "", "error": "http://down/images:\n connection refused"}
    reason = f"  web@1.0 ({V}) waits: http://down/images: connection refused"
    one = status(imports=[down, JOB], waiting=1)
    assert reason in status_lines(one, NOW)
    assert top_lines(one, NOW)[-1].text == reason
    many = status_lines(status(imports=[down] * 9, waiting=9), NOW)
    assert many.count(reason) == 3
    assert "  and 6 more (`imgctl jobs -j`)" in many


def test_a_pool_that_is_not_well():
    ill = status(pools=[{**POOL, "health": "DEGRADED"}])
    assert problems(ill) == ['pool "zones" is DEGRADED (see `zpool status zones`)']
    assert "zones  zfs   degraded  40.0 GiB  60.0 GiB  100.0 GiB  3" in status_lines(ill, NOW)
    line = top_lines(ill, NOW)[1]
    assert (line.text, line.style) == (
        "zones (degraded): 40.0 GiB used, 60.0 GiB free, 0 imports",
        "bad",
    )
    # illumos has no file that says it: that is no fault.
    untold = status(pools=[{**POOL, "health": None}])
    assert problems(untold) == []
    assert "zones  zfs   ok     40.0 GiB  60.0 GiB  100.0 GiB  3" in status_lines(untold, NOW)
    # One sentence is enough of a pool that does not answer at all.
    assert len(problems(status(pools=[{**SILENT, "health": "SUSPENDED"}]))) == 1


def test_a_pool_in_a_folder_uses_what_its_images_occupy():
    """The rest of the disk is not the pool's."""
    embedded = status(pools=[{**POOL, "type": "embedded", "used": 3 << 20}])
    assert "zones  embedded  ok     3.0 MiB  60.0 GiB  100.0 GiB  3" in status_lines(embedded, NOW)
    assert top_lines(embedded, NOW)[1].text.startswith("zones: 3.0 MiB used, 60.0 GiB free")


def test_what_is_wrong_besides():
    broken = status(problems=[{"code": "ConfigError", "message": "imgadm.conf: not JSON", "hint": "mend it"}])
    assert problems(broken) == ["imgadm.conf: not JSON (mend it)"]
    assert status_lines(broken, NOW)[-2:] == ["Needs attention:", "  imgadm.conf: not JSON (mend it)"]


def test_a_source_that_was_not_asked_yet_is_no_problem():
    new = {**SOURCE, "answered_at": None, "listed_at": None}
    assert problems(status(sources=[new])) == []
    assert any("not-asked-yet" in line for line in status_lines(status(sources=[new]), NOW))


def test_no_sources():
    assert "No sources: `imgctl sources -a URL` adds an image server." in status_lines(
        status(sources=[]), NOW
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.9, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (3661, "1h1m"), (86400, "1d"),
        (273_600, "3d4h"), (-5, "0s"), (None, None), ("x", None),
    ],
)  # fmt: skip
def test_durations(seconds: Any, text: str | None):
    assert duration(seconds) == text


def test_what_servers_name_steers_no_terminal():
    evil = "\x1b[2J\u202eevil\n"
    bad = status(
        imports=[{**JOB, "name": evil, "source": evil, "limits": evil}],
        sources=[{**DOWN, "url": evil, "error": {"message": evil, "hint": evil}}],
        pools=[{**SILENT, "name": evil, "error": evil}],
        failures=[{**FAILED, "message": evil, "name": evil}],
        warnings=[{"at": evil, "level": evil, "text": evil}],
        problems=[evil, {"message": evil, "hint": evil}],
        config=evil,
    )
    for line in [*status_lines(bad, NOW), *(line.text for line in top_lines(bad, NOW))]:
        assert line.isprintable()


values = st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text(max_size=5)


@given(data=st.data())
def test_a_daemon_of_another_version_is_no_traceback(data: st.DataObject):
    """Fields that are missing or new, and of other values."""

    def spoiled(document: dict[str, Any]) -> dict[str, Any]:
        keys = data.draw(st.sets(st.sampled_from(sorted(document)), max_size=4))
        return {key: value for key, value in document.items() if key not in keys} | {"new": 1}

    odd = spoiled(
        status(
            pools=[spoiled(POOL), spoiled(SILENT)],
            sources=[spoiled(SOURCE), spoiled(DOWN)],
            imports=[spoiled(JOB), spoiled(WAITS)],
            failures=[spoiled(FAILED)],
            warnings=[spoiled(WARNED)],
        )
    )
    assert status_lines(odd, NOW)
    assert top_lines(odd, NOW)


# -- the command ---------------------------------------------------------------------------------------------


def test_status(daemon, imgctl):
    daemon.status.looks = [status(sources=[])]
    shown = imgctl("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == status_lines(status(sources=[]), time.time())


@pytest.mark.parametrize("changes", [{"pools": [SILENT]}, {"sources": [SOURCE, DOWN]}])
def test_the_exit_status_says_that_something_needs_attention(daemon, imgctl, changes):
    daemon.status.looks = [status(**changes)]
    assert imgctl("status").returncode == 1
    shown = imgctl("status", "-j")
    assert (shown.returncode, json.loads(shown.stdout)) == (1, with_new_keys(status(**changes)))


def test_as_json(daemon, imgctl):
    daemon.status.looks = [status(imports=[JOB])]
    shown = imgctl("status", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, with_new_keys(status(imports=[JOB])))


def test_no_daemon(daemon, imgctl):
    daemon.stop()
    shown = imgctl("status")
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert "imgctl status: error (ClientError): imgstored is not running" in shown.stderr
    assert "hint: `systemctl start imgstored`" in shown.stderr


def test_an_older_daemon(daemon, imgctl):
    from imgstored.errors import UsageError

    daemon.status.looks = [UsageError('unknown method "status"', hint="of different versions")]
    shown = imgctl("status")
    assert shown.returncode == 1
    assert 'unknown method "status"' in shown.stderr


def test_arguments_are_refused(imgctl):
    assert "unexpected args" in imgctl("status", "x").stderr


def test_what_others_are_at_work_on():
    unfinished = [
        {"uuid": "half", "why": "receiving", "used": 5 << 20},
        {"uuid": "bare\x1b", "why": "no manifest", "used": None},
    ]
    lines = status_lines(status(pools=[{**POOL, "unfinished": unfinished}]), NOW)
    place = lines.index("Unfinished images of other programs:")
    assert lines[place + 1 : place + 3] == [
        "  zones/half: being received, 5.0 MiB so far",
        "  zones/bare\\x1b: received, but without a manifest (`imgctl update UUID` fetches one)",
    ]
    assert problems(status(pools=[{**POOL, "unfinished": unfinished}])) == []
