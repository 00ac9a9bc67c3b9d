"""`imgctl config`, with the real imgstored and without a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from pathlib import Path


def imgctl(*arguments: str, socket: str = "/nowhere/s.sock") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgctl", "config", *arguments],
        env={**os.environ, "IMGSTORED_SOCKET": socket},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_holds_is_shown(tmp_path: Path):
    file = tmp_path / "imgstored.toml"
    file.write_text(f'state = "{tmp_path}"\n[serve]\ntokens = {{ ada = "0123456789abcdefg" }}\n')
    shown = imgctl("show", "--config", str(file))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f'state = "{tmp_path}"  # {file}:1\n' in shown.stdout
    assert "imports = 4  # default\n" in shown.stdout
    assert "mode = 0o666  # default\n" in shown.stdout
    assert tomllib.loads(shown.stdout)["socket"]["mode"] == 0o666
    assert "0123456789" not in shown.stdout
    values = json.loads(imgctl("show", "-j", "--config", str(file)).stdout)
    assert {"key": "state", "value": str(tmp_path), "from": f"{file}:1"} in values


def test_all_that_is_wrong_is_named(tmp_path: Path):
    file = tmp_path / "imgstored.toml"
    file.write_text('stat = "/x"\n[view]\nmode = "fues"\n')
    for what in ("show", "check"):
        done = imgctl(what, "--config", str(file))
        assert done.returncode == os.EX_CONFIG
        assert f"{file}:1: unknown key: stat\nhint: did you mean `state`?" in done.stderr
        assert f"{file}:3: view.mode: invalid enum value 'fues'\nhint: did you mean `fuse`?" in done.stderr
    file.write_text('view.mode = "off"\n')
    checked = imgctl("check", "--config", str(file))
    assert (checked.returncode, checked.stdout) == (0, f"A daemon would start with {file}\n")


def test_what_is_no_question_is_refused():
    for words in ((), ("edit",), ("show", "check"), ("check", "-j")):
        done = imgctl(*words)
        assert (done.returncode, "(Usage)" in done.stderr or '"code": "Usage"' in done.stderr) == (1, True), (
            words
        )


def test_the_file_of_the_daemon_that_runs_is_shown(tmp_path: Path):
    with Daemon(tmp_path / "store", top="sources = []", view="off") as daemon:
        shown = imgctl("show", socket=str(daemon.socket))
        assert shown.returncode == 0
        assert f'state = "{daemon.folder}/state"  # {daemon.config_file}:1\n' in shown.stdout
