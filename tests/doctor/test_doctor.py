"""All checks, side by side: one that hangs or breaks hides nothing."""

from __future__ import annotations

import json
import time

import pytest
import trio

from imgstored.doctor import folders, host, view
from imgstored.doctor.check import Finding, size
from imgstored.doctor.doctor import Doctor
from imgstored.doctor.services import OwnHost
from imgstored.doctor.services import examined as examined_alone
from imgstored.pools.embedded import EmbeddedPool

CHECKS = [
    "configuration", "start", "python", "privileges", "descriptors", "state", "space", "pool zones",
    "sources", "fuse", "view", "imgadm.conf", "secrets", "manifests", "locks", "partials", "extras",
]  # fmt: skip


def checks(found):
    return list(dict.fromkeys(finding["check"] for finding in found["findings"]))


async def test_every_check_says_something_and_changes_nothing(examined, tmp_path):
    before = set(tmp_path.rglob("*"))
    subject = examined(top="sources = []")
    found = await Doctor().examine(subject)
    assert checks(found) == CHECKS
    assert found["running"] is False
    assert set(tmp_path.rglob("*")) - before == {subject.files[0]}
    assert {finding["status"] for finding in found["findings"]} <= {"ok", "warn", "fail"}


async def test_a_check_that_hangs_is_told_and_hides_nothing(examined, monkeypatch):
    monkeypatch.setattr(view, "view", lambda subject: time.sleep(30))
    monkeypatch.setattr(folders, "locks", lambda subject: time.sleep(30))
    began = trio.current_time()
    found = await Doctor(limit=1.0).examine(examined(top="sources = []"))
    assert trio.current_time() - began < 25
    assert checks(found) == CHECKS
    (hanging,) = [finding for finding in found["findings"] if finding["check"] == "view"]
    assert (hanging["status"], hanging["seen"]) == ("fail", "no answer within 1 s")
    assert "umount -l" in hanging["hint"]


async def test_a_check_that_breaks_is_told_and_hides_nothing(examined, monkeypatch):
    def broken(subject):
        raise ZeroDivisionError

    def refused(subject):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(host, "python", broken)
    monkeypatch.setattr(host, "extras", refused)
    found = await Doctor().examine(examined(top="sources = []"))
    by_check = {finding["check"]: finding for finding in found["findings"]}
    assert checks(found) == CHECKS
    assert (by_check["python"]["status"], "fault in imgstored" in by_check["python"]["seen"]) == (
        "warn",
        True,
    )
    assert (by_check["extras"]["status"], by_check["extras"]["seen"]) == (
        "fail",
        "/some/file: Permission denied",
    )


async def test_the_daemon_looks_with_the_file_as_it_is_now(examined, tmp_path):
    pool = EmbeddedPool("zones", tmp_path / "state" / "pool")
    subject = examined(top="sources = []")
    own = OwnHost(subject.settings, subject.files, {"zones": pool}, lambda: "off")
    found = await own.examine()
    assert found["running"] is True
    subject.files[0].write_text(
        f'state = "{tmp_path}/state"\nsources = []\n[limits]\nmin_free_mib = 900000000\n'
    )
    assert "fail" in [
        each["status"] for each in (await own.examine())["findings"] if each["check"] == "space"
    ]
    subject.files[0].write_text("nonsense\n")
    broken = await own.examine()
    assert broken["findings"][0]["status"] == "fail"
    assert checks(broken) == CHECKS
    pool.close()


def test_where_no_daemon_runs(examined):
    found = examined_alone(examined(top="sources = []").files)
    assert checks(found) == CHECKS


def test_without_a_daemon_no_secret_of_the_configuration_is_told(examined, tmp_path):
    view = f'[view]\nmode = "files"\npath = "{tmp_path}/k3yofasource"\n'
    source = '[[sources]]\nurl = "http://127.0.0.1:1"\nheaders = { Authorization = "Bearer k3yofasource" }\n'
    found = json.dumps(examined_alone(examined(view + source).files))
    assert "k3yofasource" not in found
    assert f"{tmp_path}/(hidden)" in found


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_for_people(count, text):
    assert size(count) == text


def test_a_finding_on_the_wire():
    wire = {"check": "view", "status": "ok", "seen": "there", "hint": ""}
    assert Finding("view", "ok", "there").as_wire() == wire
