"""`imgctl zstream` is the daemon's own program: the same bytes, words and exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import RecordType
from tests.support.streams import real_stream
from tests.support.tokens import token_of

CTL = Path(__file__).parents[2] / "ctl"

STREAM = real_stream("base")
WRITES = [each for each in StreamReader().records(STREAM[: 2 << 20]) if each.type == RecordType.WRITE]
POINT = WRITES[3]
TOKEN = token_of(object=POINT.object, offset=POINT.offset, bytes=1234, toguid=3180115020765103000)


@pytest.fixture
def zstream(imgctl, daemon):
    """Runs `imgctl zstream` without a daemon, with bytes for text."""
    daemon.path.unlink(missing_ok=True)
    return lambda *arguments, **settings: imgctl(
        "zstream", *arguments, **{"text": False, "stdin": None, "input": b"", **settings}
    )


def program(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "imgstored.zstream", *arguments], input=given, capture_output=True, check=False
    )


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.zfs"
    path.write_bytes(STREAM)
    return path


def test_the_resumed_stream_is_the_programs(zstream, base):
    made = zstream("resume", "--token", TOKEN, str(base))
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout == program("resume", "--token", TOKEN, str(base)).stdout
    assert 0 < len(made.stdout) < len(STREAM)
    assert zstream("resume", f"--token={TOKEN}", input=STREAM).stdout == made.stdout
    checked = zstream("check", input=made.stdout)
    assert json.loads(checked.stdout)["features"] == ["sa_spill", "resuming"]


@pytest.mark.parametrize(
    "arguments", [("token", TOKEN), ("check", "--", "-odd name"), ("token", "1-2-3"), ()]
)
def test_what_it_says_and_ends_with_is_the_programs(zstream, base, arguments, monkeypatch):
    monkeypatch.chdir(base.parent)
    base.rename("-odd name")
    ours, its = zstream(*arguments), program(*arguments)
    assert (ours.returncode, ours.stdout, ours.stderr) == (its.returncode, its.stdout, its.stderr)
    assert ours.returncode == {(): 2, ("token", "1-2-3"): 1}.get(arguments, 0)


def test_nothing_of_the_present_folder_is_run(zstream, tmp_path):
    package = tmp_path / "imgstored"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('from the folder')")
    assert json.loads(zstream("token", TOKEN, cwd=tmp_path).stdout)["object"] == POINT.object


def test_help(imgctl):
    shown = imgctl("zstream", "--help").stdout
    assert "    imgctl zstream COMMAND [ARGS...]\n" in shown
    assert "resume --token TOKEN [FILE]" in shown
    own = imgctl("zstream", "resume", "--help")
    assert (own.returncode, own.stdout.split()[:3]) == (0, ["usage:", "zstream", "resume"])
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_python_without_the_daemon(tmp_path):
    (tmp_path / "imgctl").symlink_to(CTL / "imgctl")
    (tmp_path / "imgproto").symlink_to(CTL / "imgproto")
    (tmp_path / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); from imgctl.cli import main; sys.exit(main())"
    # -S: without site-packages, where imgstored is; -P: nor from the folder we are in.
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code, "zstream", "check"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={},
        check=False,
    )
    assert done.returncode == 1
    assert "imgctl zstream: error (NotInstalled): " in done.stderr
    assert "hint: " in done.stderr
    assert "imgstore" in done.stderr
