"""`python -m imgstored.create` as a process: what it says, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from imgstored.zstream.reader import StreamReader

FIELDS = ["name=web", "version=1.0", "os=linux"]


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"begin".ljust(20_000, b"\0") + b"end")
    return path


def run(output, *arguments, given=None):
    """The exit status, and the lines."""
    fd = output[0]
    done = subprocess.run(
        [sys.executable, "-m", "imgstored.create", "--output", str(fd), "--path", "out", *arguments],
        input=given or json.dumps({"manifest": {"tags": {"a": 1}}, "fields": FIELDS}),
        capture_output=True,
        text=True,
        pass_fds=[fd],
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_events_and_a_result(output, disk):
    status, lines = run(output, str(disk))
    assert status == 0
    assert [line["event"] for line in lines[:-1] if line["event"] != "progress"] == [
        "note",
        "note",
        "note",
        "manifest",
        "sending",
    ]
    manifest = lines[-1]["result"]["manifest"]
    assert (manifest["type"], manifest["image_size"], manifest["tags"]) == ("zvol", 1, {"a": 1})
    stream = output[1].read_bytes()
    reader = StreamReader()
    reader.check(stream)
    reader.finish()
    assert reader.begin is not None
    assert str(reader.begin.toguid) == manifest["files"][0]["dataset_guid"]
    assert reader.begin.toname == f"zones/{manifest['uuid']}@final"
    assert manifest["files"][0]["size"] == len(stream)


@pytest.mark.parametrize(
    ("arguments", "given", "code"),
    [
        (["nosuch"], None, "FileSystem"),
        (["--block-size", "100", "DISK"], None, "Usage"),
        (["--compression", "lz4", "DISK"], None, "Usage"),
        (["DISK"], "{", "InvalidManifest"),
        (["DISK"], '{"manifest": {}, "fields": ["name"]}', "Usage"),
        (["DISK"], '{"manifest": {"name": "a"}, "fields": []}', "ManifestValidation"),
        (["."], None, "Usage"),
    ],
)
def test_what_is_refused(output, disk, arguments, given, code):
    status, lines = run(output, *[str(disk) if each == "DISK" else each for each in arguments], given=given)
    assert status == 1
    assert lines[-1]["error"]["code"] == code
    assert output[1].read_bytes() == b""


def test_a_file_that_is_not_empty(output, disk):
    output[1].write_bytes(b"something")
    status, lines = run(output, str(disk))
    assert (status, lines[-1]["error"]["code"]) == (1, "Usage")
    assert output[1].read_bytes() == b"something"
