"""Files that clients hand over."""

from __future__ import annotations

import os

import pytest

from imgstored.errors import CancelledError, UsageError
from imgstored.imports.local_file import LocalFile


@pytest.fixture
def opened(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10_000)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_it_is_read_from_its_start_and_the_clients_offset_stays(opened):
    os.lseek(opened, 1000, os.SEEK_SET)
    file = LocalFile(opened, "file")
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


def test_what_is_no_regular_file_is_refused(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, flags in [
        (fifo, os.O_RDONLY | os.O_NONBLOCK),
        (tmp_path, os.O_RDONLY),
        ("/dev/zero", os.O_RDONLY),
    ]:
        fd = os.open(path, flags)
        try:
            with pytest.raises(UsageError, match="not a regular file"):
                LocalFile(fd, str(path))
        finally:
            os.close(fd)


def test_a_descriptor_that_cannot_be_read_is_refused(tmp_path):
    fd = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            LocalFile(fd, "w")
    finally:
        os.close(fd)
