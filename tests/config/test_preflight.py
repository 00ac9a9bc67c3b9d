"""What the host must have: `imgstored --check`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.without import environment


def checked(tmp_path, text: str, without=()) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "imgstored.toml"
    file.write_text(f'state = "{tmp_path}/state"\n{text}')
    return subprocess.run(
        [sys.executable, "-m", "imgstored", "--config", str(file), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(*without),
    )


@pytest.mark.parametrize(
    ("text", "without", "said"),
    [
        ('view.mode = "fuse"', ["pyfuse3"], "FUSE is not possible here: "),
        ('metrics.listen = "127.0.0.1:1"', ["prometheus_client"], "metrics.listen: the Python package prom"),
        ('serve.listen = "127.0.0.1:1"', ["werkzeug"], "serve.listen: the Python package werkzeug"),
        ('serve.listen = "127.0.0.1:1"', ["jinja2"], "serve.listen: the Python package jinja2"),
        ('socket.group = "nobodys"', [], 'socket.group: there is no group "nobodys"'),
        (
            '[serve]\nlisten = "127.0.0.1:1"\ncert_file = "/none.pem"\nkeys.ada = "/none.pub"',
            [],
            "serve.cert_file: /none.pem cannot be used",
        ),
        ('[pool]\ntype = "zfs"\nname = "tank"', [], 'pool "tank": '),
    ],
)
def test_what_would_not_start_does_not_pass(tmp_path, text, without, said):
    """As with these settings the daemon itself does not: tests/e2e/test_without.py."""
    done = checked(tmp_path, text, without)
    assert said in done.stderr
    assert done.stderr.count("hint: ") >= 1
    assert done.returncode in (1, os.EX_CONFIG)
    assert not (tmp_path / "state").exists()


def test_all_that_is_missing_is_named_at_once(tmp_path):
    text = 'platform = "x"\n[view]\nmode = "fuse"\n[socket]\ngroup = "nobodys"\n[metrics]\nlisten = "::1:x"\n'
    done = checked(tmp_path, text, ["pyfuse3"])
    assert done.returncode == os.EX_CONFIG
    said = [line for line in done.stderr.splitlines() if line.startswith("imgstored: error ")]
    assert len(said) == 4
    assert len(set(said)) == 4
