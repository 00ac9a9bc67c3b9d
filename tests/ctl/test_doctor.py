"""`imgctl doctor`: with a daemon, with one that says nothing, and without."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from imgctl import __version__

from imgstored.errors import NotPermittedError

FAIL = {"check": "pool zones", "status": "fail", "seen": "it is suspended", "hint": "see `zpool status`"}
WARN = {"check": "clock", "status": "warn", "seen": "60 s ahead", "hint": "set the clock"}
OK = {"check": "extras", "status": "ok", "seen": "isal is not installed: slow", "hint": "install it"}


def test_what_the_daemon_sees_and_what_to_do(daemon, imgctl):
    daemon.doctor.findings = [FAIL, WARN, OK]
    shown = imgctl("doctor")
    assert shown.returncode == 1
    assert shown.stdout.splitlines() == [
        f"ok    daemon      imgstored {__version__} listens at {daemon.path}",
        f"ok    version     imgctl and imgstored are both {__version__}",
        "fail  pool zones  it is suspended",
        "                  hint: see `zpool status`",
        "warn  clock       60 s ahead",
        "                  hint: set the clock",
        "ok    extras      isal is not installed: slow",
        "5 checks: 1 fail, 1 worth a look.",
    ]
    assert "hint: install it" in imgctl("-v", "doctor").stdout


def test_a_warning_is_no_failure(daemon, imgctl):
    daemon.doctor.findings = [WARN]
    shown = imgctl("doctor")
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "3 checks: 1 worth a look.")
    daemon.doctor.findings = [OK]
    shown = imgctl("doctor")
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "All is well: 3 checks.")


def test_json(daemon, imgctl):
    daemon.doctor.findings = [OK, {**WARN, "more": 1}]
    shown = imgctl("doctor", "-j")
    found = json.loads(shown.stdout)
    assert (shown.returncode, found["ok"]) == (0, True)
    assert found["findings"][2:] == [OK, WARN]
    daemon.doctor.findings = [FAIL]
    shown = imgctl("doctor", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["ok"]) == (1, False)


def test_nothing_steers_the_terminal(daemon, imgctl):
    daemon.doctor.findings = [{**WARN, "seen": "\x1b[2J", "hint": "a\nb"}]
    shown = imgctl("doctor").stdout
    assert "\x1b" not in shown
    assert "a\nb" not in shown


def test_who_may_only_read_is_told_to_use_sudo(daemon, imgctl):
    daemon.doctor.error = NotPermittedError("only root may")
    shown = imgctl("doctor")
    assert shown.returncode == 0
    assert "warn  doctor" in shown.stdout
    assert "hint: use sudo or pfexec" in shown.stdout


# -- without a daemon ----------------------------------------------------------------------------------------


@pytest.fixture
def file(folder):
    """A configuration of which nothing is there."""
    path = folder / "imgstored.toml"
    path.write_text(f'state = "{folder}/state"\nsources = []\n[view]\nmode = "off"\n')
    return path


def statuses(shown):
    return {finding["check"]: finding["status"] for finding in json.loads(shown.stdout)["findings"]}


def seen(shown, check):
    return next(
        finding["seen"] for finding in json.loads(shown.stdout)["findings"] if finding["check"] == check
    )


def test_a_daemon_that_does_not_run(imgctl, folder, file):
    shown = imgctl("--socket", str(folder / "none.sock"), "doctor", "-j", "--config", str(file))
    assert shown.returncode == 1
    found = statuses(shown)
    assert found["daemon"] == "fail"
    assert (found["configuration"], found["state"], found["pool zones"]) == ("ok", "ok", "ok")
    assert "nothing listens at" in seen(shown, "daemon")
    assert not (folder / "state").exists()


def test_a_socket_that_nobody_listens_at(imgctl, folder, file):
    path = folder / "left.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    shown = imgctl("--socket", str(path), "doctor", "-j", "--config", str(file))
    assert "is there, and nobody listens" in seen(shown, "daemon")


def test_a_configuration_that_is_wrong(imgctl, folder, file):
    file.write_text("stat = 1\n")
    shown = imgctl("--socket", str(folder / "none.sock"), "doctor", "--config", str(file))
    assert shown.returncode == 1
    assert f"fail  configuration  {file}:1: unknown key: stat" in shown.stdout


@pytest.fixture
def alone(imgctl, folder):
    """Runs a client that was installed by itself, with this program as its imgstored."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    paths = [Path(__file__).parents[2] / "ctl", Path(msgpack.__file__).parents[1]]
    environment = {
        **imgctl.environment,
        "PATH": "/nowhere",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }

    def run(program=None):
        if program is not None:
            (folder / "bin" / "imgstored").write_text(f"#!/bin/sh\n{program}\n")
            (folder / "bin" / "imgstored").chmod(0o755)
        return subprocess.run(
            [str(python), "-m", "imgctl", "--socket", str(folder / "none.sock"), "doctor", "-j"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_without_imgstored_that_is_said(alone):
    shown = alone()
    assert (shown.returncode, seen(shown, "imgstored")) == (1, "the program imgstored is not installed here")


@pytest.mark.parametrize(
    ("does", "said"),
    [("echo oops >&2; exit 3", "fails: oops"), ("kill -9 $$", "fails: -9"), ("exit 0", "fails: 0")],
)
def test_an_imgstored_that_fails(alone, does, said):
    shown = alone(does)
    assert shown.returncode == 1
    assert said in seen(shown, "imgstored")


def test_an_imgstored_that_says_something_else(alone):
    shown = alone("echo 7")
    # It may also warn that it does not run as root.
    assert (shown.returncode, statuses(shown)["daemon"]) == (1, "fail")
