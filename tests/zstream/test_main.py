from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imgstored.zstream.__main__ import main
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import RecordType
from imgstored.zstream.resume import resume
from imgstored.zstream.token import parse_token
from tests.support.streams import filesystem_stream, real_stream
from tests.support.tokens import token_of

if TYPE_CHECKING:
    from pathlib import Path

GUID = 3180115020765103000
BASE = real_stream("base")
TOKEN = token_of(
    object=next(
        record.object for record in StreamReader().records(BASE[: 2 << 20]) if record.type == RecordType.WRITE
    ),
    offset=0,
    bytes=1234,
    toguid=GUID,
)
RESUMED = b"".join(resume([BASE], parse_token(TOKEN).point))


def run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "imgstored.zstream", *arguments], input=given, capture_output=True, check=False
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.zfs"
    path.write_bytes(BASE)
    return path


def test_resume_a_file(base: Path) -> None:
    done = run("resume", "--token", TOKEN, str(base))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == RESUMED


def test_resume_standard_input() -> None:
    assert run("resume", "--token", TOKEN, given=BASE).stdout == RESUMED


def test_check(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(base)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "objset": "filesystem",
        "toguid": str(GUID),
        "fromguid": None,
        "toname": "zones/11111111-aaaa-4bbb-8ccc-000000000001@final",
        "features": ["sa_spill"],
        "bytes": len(BASE),
    }


def test_check_a_resuming_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "half.zfs"
    path.write_bytes(RESUMED)
    assert main(["check", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["features"] == ["sa_spill", "resuming"]


def test_token(capsys: pytest.CaptureFixture[str]) -> None:
    token = token_of(object=7, offset=4096, bytes=9, toguid=5, fromguid=6, toname="a/b@c", flags=("embedok",))
    assert main(["token", token]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "object": 7,
        "offset": 4096,
        "bytes": 9,
        "toguid": "5",
        "fromguid": "6",
        "toname": "a/b@c",
        "features": ["embed_data"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token", "1-2-3"], "no receive token"),
        (["resume", "--token", "1-2-3", "FILE"], "no receive token"),
        (["resume", "--token", token_of(object=1, offset=0, toguid=5), "FILE"], "and the receive's 5"),
        (["check", "TEXT"], "not a ZFS send stream"),
        (["check", "NOT-THERE"], "No such file"),
        (["check", "."], "Is a directory"),
    ],
)
def test_what_is_wrong(
    arguments: list[str],
    message: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "TEXT").write_text("no stream")
    base.rename(tmp_path / "FILE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["resume"], ["resume", "FILE"], ["unknown"], ["token"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_a_stream_that_is_cut_short() -> None:
    done = run("resume", "--token", TOKEN, given=BASE[:-1])
    assert done.returncode == 1
    assert b"zstream: error: the stream ends early" in done.stderr
    assert b"hint: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_who_reads_it_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "large.zfs"
    path.write_bytes(filesystem_stream(size=8 << 20, seed=1, guid=5))
    token = token_of(object=1, offset=0, toguid=5)
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "imgstored.zstream", "resume", "--token", token, str(path)],
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        os.read(reading, 4096)
        os.close(reading)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == 1
    assert said == b"zstream: error: the output was closed before the end of the stream\n"


def test_a_stream_is_not_for_a_terminal(base: Path) -> None:
    terminal, end = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "imgstored.zstream", "resume", "--token", TOKEN, str(base)],
            stdout=end,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(end)
    assert done.returncode == 1
    assert b"not for a terminal" in done.stderr
