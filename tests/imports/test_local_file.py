"""Files that clients hand over."""

from __future__ import annotations

import os

import pytest
import trio

from imgstored.errors import CancelledError, DownloadError, UsageError
from imgstored.host import foreign_files
from imgstored.imports.local_file import LocalFile
from tests.support.dead_disk import DeadDisk


@pytest.fixture
def opened(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10_000)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


async def test_it_is_read_from_its_start_and_the_clients_offset_stays(opened):
    os.lseek(opened, 1000, os.SEEK_SET)
    file = LocalFile(opened, "file")
    await file.look()
    assert file.size == 2_560_000
    for _ in range(2):
        assert b"".join(file.blocks()) == bytes(range(256)) * 10_000
    assert os.lseek(opened, 0, os.SEEK_CUR) == 1000


def test_a_failure_ends_readers(opened):
    file = LocalFile(opened, "file")
    blocks = file.blocks()
    next(blocks)
    file.fail(CancelledError("enough"))
    with pytest.raises(CancelledError, match="enough"):
        next(blocks)


async def looked_at(path, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    try:
        with trio.fail_after(60):
            await LocalFile(fd, str(path)).look()
    finally:
        os.close(fd)


async def test_what_is_no_regular_file_is_refused(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/zero", "/dev/full"):
        with pytest.raises(UsageError, match="not a regular file"):
            await looked_at(path, os.O_RDONLY | os.O_NONBLOCK)


async def test_what_has_nothing_in_it_is_refused_and_not_read(tmp_path):
    """A file of /proc may wait for ever, as kmsg does for the next message."""
    (tmp_path / "empty").touch()
    kmsg = ["/proc/kmsg"] if os.access("/proc/kmsg", os.R_OK) and os.geteuid() == 0 else []
    for path in (tmp_path / "empty", "/proc/self/status", *kmsg):
        with pytest.raises(UsageError, match="is empty"):
            await looked_at(path)


async def test_a_descriptor_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "w").write_bytes(b"w")
    with pytest.raises(UsageError, match="cannot be read: Bad file descriptor"):
        await looked_at(tmp_path / "w", os.O_WRONLY)


@pytest.fixture
def disk(tmp_path):
    with DeadDisk(tmp_path) as mounted:
        (mounted.source / "file").write_bytes(bytes(3 << 20))
        yield mounted


async def test_a_disk_that_does_not_answer(disk, monkeypatch):
    monkeypatch.setattr(foreign_files, "SILENCE", 0.5)
    fd = os.open(disk.place / "file", os.O_RDONLY)
    file = LocalFile(fd, "file")
    await file.look()
    blocks = file.blocks()
    assert len(next(blocks)) == 1 << 20
    disk.stop()
    with pytest.raises(DownloadError, match="file cannot be read: its disk has not answered for"):
        await trio.to_thread.run_sync(next, blocks)
    with pytest.raises(UsageError, match="cannot be read: its disk has not answered for"):
        await file.look()
    foreign_files.close(fd)  # it takes as long as the disk, and nobody waits for it
    disk.go_on()


async def test_who_waits_for_such_a_disk_can_leave(disk):
    fd = os.open(disk.place / "file", os.O_RDONLY)
    file = LocalFile(fd, "file")
    await file.look()
    disk.stop()
    with trio.fail_after(60):
        with trio.move_on_after(0.3) as scope:
            await file.look()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(CancelledError, match="enough"):
                    await trio.to_thread.run_sync(list, file.blocks())

            nursery.start_soon(read)
            await trio.sleep(0.3)
            file.fail(CancelledError("enough"))
    foreign_files.close(fd)
    disk.go_on()
