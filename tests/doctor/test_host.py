"""The configuration, privileges, and what is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgstored.doctor import host

ZFS = '[pool]\ntype = "zfs"\n'


def statuses(findings):
    return [finding.status for finding in findings]


def test_the_files_are_read_as_they_are_now(examined):
    subject = examined()
    (found,) = host.configuration(subject)
    assert (found.status, found.seen) == ("ok", str(subject.files[0]))
    subject.files[0].write_text("nonsense = 1\n")
    (found,) = host.configuration(subject)
    assert found.status == "fail"
    assert "unknown key: nonsense" in found.seen
    assert found.hint
    subject.files[0].unlink()
    (found,) = host.configuration(subject)
    assert (found.status, "cannot be read" in found.seen) == ("fail", True)


def test_a_value_that_only_its_room_refuses(examined):
    subject = examined()
    subject.files[0].write_text('[[sources]]\nurl = "ftp://example.com"\n')
    (found,) = host.configuration(subject)
    assert found.status == "fail"
    assert "sources[0]" in found.seen


@pytest.mark.parametrize(
    ("uid", "caps", "config", "status", "said"),
    [
        (0, "000001ffffffffff", ZFS, "ok", "root"),
        (0, "00000000a80425fb", ZFS, "fail", "CAP_SYS_ADMIN"),
        (0, "00000000a80425fb", "", "warn", "CAP_SYS_ADMIN"),
        (1000, "0000000000000000", ZFS, "fail", "uid 1000"),
        (1000, "0000000000000000", "", "ok", "uid 1000"),
    ],
)
def test_privileges(examined, monkeypatch, tmp_path, uid, caps, config, status, said):
    text = tmp_path / "proc-status"
    text.write_text(f"Name:\tpython\nCapInh:\t0000000000000000\nCapEff:\t{caps}\n")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(host, "_PROCESS", text)
    (found,) = host.privileges(examined(config))
    assert found.status == status
    assert said in found.seen
    assert bool(found.hint) == (status != "ok")


def test_where_there_is_no_proc_root_is_root(examined, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "_PROCESS", Path("/nowhere/status"))
    assert statuses(host.privileges(examined(ZFS))) == ["ok"]


def test_extras_are_there_or_not(examined, monkeypatch):
    found = host.extras(examined())
    assert {finding.check for finding in found} == {"extras"}
    monkeypatch.setattr(host, "_FOLDERS", ("/nowhere",))
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    missing = {finding.seen.split()[0]: finding for finding in host.extras(examined())}
    assert {name: finding.status for name, finding in missing.items()} == {
        "zstandard": "warn",
        "blake3": "warn",
        "isal": "warn",
        "numpy": "warn",
        "msgpack._cmsgpack": "warn",
        "tqdm": "ok",
        "werkzeug": "ok",
        "prometheus_client": "ok",
        "lbzip2": "warn",
        "qemu-img": "ok",
    }
    assert all("is not installed: " in finding.seen and finding.hint for finding in missing.values())
