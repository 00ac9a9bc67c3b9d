from __future__ import annotations

import hashlib
import os
import resource

import pytest

from imgstored.create.output import Output, write_all
from imgstored.errors import NoSpaceError, UsageError


@pytest.fixture
def opened(tmp_path):
    fds = []

    def open_(name="file", flags=os.O_RDWR | os.O_CREAT):
        fds.append(os.open(tmp_path / name, flags, 0o600))
        return fds[-1]

    yield open_
    for fd in fds:
        os.close(fd)


def test_size_and_sha1_are_of_what_is_written(opened, tmp_path):
    fd = opened()
    os.lseek(fd, 100, os.SEEK_SET)
    output = Output(fd, "f")
    checked = []
    write_all([b"one", bytearray(b"two"), memoryview(b"three")], output, lambda: checked.append(1))
    assert (tmp_path / "file").read_bytes() == b"onetwothree"
    expected = {"sha1": hashlib.sha1(b"onetwothree").hexdigest(), "size": 11, "compression": "xz"}
    assert output.described("xz") == expected
    assert len(checked) == 3
    assert os.lseek(fd, 0, os.SEEK_CUR) == 100


def test_what_is_no_file_to_write_to(opened, tmp_path):
    (tmp_path / "full").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for fd in (
        opened("full"),
        opened("pipe", os.O_RDWR),
        opened(".", os.O_RDONLY),
        os.open("/dev/null", os.O_WRONLY),
    ):
        with pytest.raises(UsageError, match="is not an empty regular file"):
            Output(fd, "f")
    with pytest.raises(UsageError, match="was not opened for writing"):
        Output(opened("empty", os.O_RDONLY | os.O_CREAT), "f")


def test_no_room(opened):
    """As of a full file system: here it is the process's own limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = Output(opened(), "the/file")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NoSpaceError, match="there is no room left for the/file"):
            output.write(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
