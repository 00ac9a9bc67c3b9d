from __future__ import annotations

import hashlib
import os
import resource

import pytest
import trio

from imgstored.create.output import Output, write_all
from imgstored.errors import FileSystemError, NoSpaceError, UsageError
from imgstored.host import foreign_files
from tests.support.dead_disk import DeadDisk


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
    checked = []
    with Output(fd, "f") as output:
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
    with Output(opened(), "the/file") as output:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(NoSpaceError, match="there is no room left for the/file"):
                output.write(bytes(2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def silence(monkeypatch):
    """No disk takes that long, unless it never answers."""
    monkeypatch.setattr(foreign_files, "SILENCE", 0.5)


def test_a_disk_that_does_not_answer(tmp_path, silence):
    with DeadDisk(tmp_path) as disk:
        (disk.source / "file").touch()
        fd = os.open(disk.place / "file", os.O_RDWR)
        with Output(fd, "the/file") as output:
            output.write(b"x")
            disk.stop()
            with pytest.raises(
                FileSystemError, match="the/file cannot be written: its disk has not answered"
            ):
                output.write(b"y")
        with pytest.raises(FileSystemError, match="its disk has not answered"):
            Output(fd, "the/file")
        disk.go_on()
        os.close(fd)


async def test_who_writes_to_such_a_disk_can_leave(tmp_path):
    with DeadDisk(tmp_path) as disk:
        (disk.source / "file").touch()
        fd = os.open(disk.place / "file", os.O_RDWR)
        disk.stop()

        def write():
            with Output(fd, "f", check=trio.from_thread.check_cancelled):
                pytest.fail("it answered")

        with trio.fail_after(60), trio.move_on_after(0.3) as scope:
            await trio.to_thread.run_sync(write)
        assert scope.cancelled_caught
        disk.go_on()
        os.close(fd)
