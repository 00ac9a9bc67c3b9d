"""What is said where there is no daemon: how to start one, or where to look for it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import imgctl.connection
import pytest
from imgctl import Client, NotConnectedError


def refusal(path: object) -> NotConnectedError:
    with pytest.raises(NotConnectedError) as caught:
        Client(str(path)).list()
    return caught.value


@pytest.mark.parametrize(
    ("platform", "start"),
    [("linux", "`systemctl start imgstored`"), ("sunos5", "`svcadm enable imgstored`")],
)
def test_where_nothing_listens(monkeypatch, folder, platform, start):
    monkeypatch.setattr(imgctl.connection.sys, "platform", platform)
    error = refusal(folder / "none")
    assert error.message == f"imgstored is not running: nothing listens at {folder}/none"
    assert error.hint == (
        f"{start}, or `imgstored --config FILE` by hand; or say where it listens with --socket PATH or"
        " IMGSTORED_SOCKET"
    )


def test_a_socket_that_was_left_behind_is_the_same(folder):
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{folder}/left")
    assert "is not running" in refusal(folder / "left").message


def test_what_is_no_socket(folder):
    (folder / "file").touch()
    assert "is not running" in refusal(folder / "file").message
    assert "--socket PATH" in refusal(folder / "file" / "x").hint


def test_the_hint_is_right(folder):
    """What it says can be typed: the program has this option, and the client finds that daemon."""
    settings = folder / "imgstored.toml"
    settings.write_text(
        f'state = "{folder}/state"\nsources = []\n[socket]\npath = "{folder}/sock"\n[view]\nmode = "off"\n'
    )
    program = shlex.split("imgstored --config FILE".replace("FILE", str(settings)))
    daemon = subprocess.Popen(
        [sys.executable, "-m", *program], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert any("listening" in line for line in daemon.stderr)
        with Client(f"{folder}/sock") as client:
            assert client.list() == []
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)
