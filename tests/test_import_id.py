"""An import's id goes to every task and thread that works for it."""

from __future__ import annotations

import bz2
import os
import re

import trio

from imgstored import import_id
from imgstored.pools.zfs.pipe import Inlet, outlet
from imgstored.transfer.decompress import bzip2
from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.threaded import threaded


def test_each_is_another():
    ids = {import_id.fresh() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in ids)


def test_it_ends_with_its_block():
    assert import_id.current() is None
    with import_id.bound("a"):
        with import_id.bound("b"):
            assert import_id.current() == "b"
        assert import_id.current() == "a"
    assert import_id.current() is None


async def test_tasks_and_threads_have_that_of_their_parent():
    found = []

    async def task():
        found.append(import_id.current())
        found.append(await trio.to_thread.run_sync(import_id.current))

    async with trio.open_nursery() as nursery:
        with import_id.bound("a"):
            nursery.start_soon(task)
        nursery.start_soon(task)
    assert sorted(found, key=str) == [None, None, "a", "a"]


def test_the_threads_of_a_transfer_have_it():
    def upstream():
        yield import_id.current()

    with import_id.bound("a"), threaded(upstream(), 1) as ahead:
        assert list(ahead) == ["a"]


def test_the_kernels_threads_have_it():
    found = []

    def kernel(fd):
        found.append(import_id.current())
        os.set_blocking(fd, False)

    with import_id.bound("a"):
        assert Inlet("zones", kernel).finish() is None
        assert list(outlet("zones", kernel)) == []
    assert found == ["a", "a"]


def test_the_thread_that_feeds_another_program_has_it():
    found = []

    def blocks():
        found.append(import_id.current())
        yield bz2.compress(b"hello")

    path = bzip2.program()
    assert path is not None
    with import_id.bound("a"):
        assert b"".join(bzip2.decode_by_program(Feed(blocks()), path, 1)) == b"hello"
    assert found == ["a"]
