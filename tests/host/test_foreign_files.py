"""Calls that may never return, and how many of them there can be."""

from __future__ import annotations

import os
import threading

import pytest

from imgstored.host import foreign_files
from imgstored.host.foreign_files import ForeignFile


@pytest.fixture
def fd(tmp_path):
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def stuck():
    """A call that returns only when the test ends, and says when it has."""
    released, entered, returned = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def wait(_: int) -> None:
        entered.release()
        released.wait(60)
        returned.release()

    wait.release, wait.entered, wait.returned = released.set, entered, returned
    yield wait
    released.set()


class LeftError(Exception):
    """The user has left."""


def until_free(count):
    """All that is in use has ended: so many files can be used."""
    taken = [foreign_files._free.acquire(timeout=60) for _ in range(count)]
    for _ in taken:
        foreign_files._free.release()
    assert all(taken)


def test_it_gives_what_the_call_gives(fd):
    with ForeignFile(fd) as file:
        assert file(lambda own: os.pwrite(own, b"abc", 0)) == 3
        assert file(lambda own: os.pread(own, 9, 0)) == b"abc"
        assert file(lambda own: own) != fd
        with pytest.raises(IsADirectoryError):
            file(lambda _: os.open("/", os.O_RDWR))
        assert file(os.fstat).st_size == 3
    until_free(foreign_files.MAX_FILES)


def test_whoever_leaves_does_not_wait(fd, stuck, monkeypatch):
    def left() -> None:
        raise LeftError

    with ForeignFile(fd, check=left) as file:
        with pytest.raises(LeftError):
            file(stuck)
        with pytest.raises(LeftError):
            file(os.fstat)
    file = ForeignFile(fd)
    threading.Timer(0.05, file.fail, [LeftError()]).start()
    with pytest.raises(LeftError):
        file(stuck)
    file.close()
    monkeypatch.setattr(foreign_files, "SILENCE", 0.2)
    with ForeignFile(fd) as file, pytest.raises(TimeoutError, match="its disk has not answered"):
        file(stuck)
    # Each descriptor is closed when its call has returned, and not before: it may be another file's then.
    stuck.release()
    for _ in range(3):
        assert stuck.returned.acquire(timeout=60)
    until_free(foreign_files.MAX_FILES)


def test_there_are_so_many_and_no_more(fd, stuck, monkeypatch):
    monkeypatch.setattr(foreign_files, "_PAUSE", 0.001)
    before = set(threading.enumerate())  # threads of earlier tests, which may end meanwhile

    def leave() -> None:
        if stuck.entered.acquire(blocking=False):
            raise LeftError

    for _ in range(foreign_files.MAX_FILES):
        with ForeignFile(fd, check=leave) as file, pytest.raises(LeftError):
            file(stuck)
    with pytest.raises(TimeoutError, match="or their disks do not answer"):
        ForeignFile(fd)
    assert len(set(threading.enumerate()) - before) == foreign_files.MAX_FILES
    stuck.release()
    until_free(foreign_files.MAX_FILES)


def test_a_file_that_takes_long_to_close_holds_up_no_other(monkeypatch):
    released, closed = threading.Event(), threading.Semaphore(0)
    pipes = [os.pipe() for _ in range(foreign_files._CLOSERS + 3)]
    slow = {reader for reader, _ in pipes[: foreign_files._CLOSERS - 1]}
    close = os.close

    def slowly(fd: int) -> None:
        if fd in slow:
            released.wait(60)
        close(fd)
        closed.release()

    monkeypatch.setattr(os, "close", slowly)
    for reader, _ in pipes:
        foreign_files.close(reader)
    for _ in range(4):
        assert closed.acquire(timeout=60)
    released.set()
    for _ in slow:
        assert closed.acquire(timeout=60)
    monkeypatch.undo()
    for _, writer in pipes:
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        os.close(writer)


def test_a_file_without_a_thread_takes_no_place(fd, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for _ in range(foreign_files.MAX_FILES + 1):
            with pytest.raises(RuntimeError, match="new thread"):
                ForeignFile(fd)
        closed = [os.dup(fd) for _ in range(20)]
        for each in closed:
            foreign_files.close(each)
    until_free(foreign_files.MAX_FILES)
    foreign_files.close(os.dup(fd))
    for each in closed:
        until_closed(each)


def until_closed(number):
    for _ in range(3000):
        try:
            os.fstat(number)
        except OSError:
            return
        threading.Event().wait(0.01)
    raise AssertionError(number)
