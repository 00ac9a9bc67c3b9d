"""An import's id goes to every task and thread that works for it."""

from __future__ import annotations

import bz2
import os
import re

import trio
from structlog.contextvars import get_contextvars

from imgstored import import_id
from imgstored.pools.zfs.pipe import Inlet, outlet
from imgstored.transfer.decompress import bzip2
from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.threaded import threaded


def current():
    """What a log line has here."""
    return get_contextvars().get("import_id")


def test_each_is_another():
    ids = {import_id.fresh() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in ids)


def test_it_ends_with_its_block():
    assert current() is None
    with import_id.bound("a"):
        with import_id.bound("b"):
            assert current() == "b"
        assert current() == "a"
    assert current() is None


async def test_tasks_and_threads_have_that_of_their_parent():
    found = []

    async def task():
        found.append(current())
        found.append(await trio.to_thread.run_sync(current))

    async with trio.open_nursery() as nursery:
        with import_id.bound("a"):
            nursery.start_soon(task)
        nursery.start_soon(task)
    assert sorted(found, key=str) == [None, None, "a", "a"]


def test_the_threads_of_a_transfer_have_it():
    def upstream():
        yield current()

    with import_id.bound("a"), threaded(upstream(), 1) as ahead:
        assert list(ahead) == ["a"]


def test_the_kernels_threads_have_it():
    found = []

    def kernel(fd):
        found.append(current())
        os.set_blocking(fd, False)

    with import_id.bound("a"):
        assert Inlet("zones", kernel).finish() is None
        assert list(outlet("zones", kernel)) == []
    assert found == ["a", "a"]


def test_the_thread_that_feeds_another_program_has_it():
    found = []

    def blocks():
        found.append(current())
        yield bz2.compress(b"hello")

    path = bzip2.program()
    assert path is not None
    with import_id.bound("a"):
        assert b"".join(bzip2.decode_by_program(Feed(blocks()), path, 1)) == b"hello"
    assert found == ["a"]
