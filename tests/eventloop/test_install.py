"""Where the stand-in is put in place, and what others then take: each in a Python of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from docs.make.rooms import modules

#: Seconds, however busy the machine is.
TIMEOUT = 60


def python(program: str, *arguments: str) -> str:
    """What it prints. Without what `make unit-poll` has for all others: each says itself where it is."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


#: What `select` has after our package was imported on a platform, with or without kqueue of the system's own.
INSTALLS = """
import select, sys
sys.platform, kqueue, epoll = sys.argv[1], sys.argv[2] == "kqueue", sys.argv[3] == "epoll"
for name in [name for name in vars(select) if name.startswith("KQ_")] + ["kqueue", "kevent"]:
    vars(select).pop(name, None)
if kqueue:
    select.kqueue = print
if not epoll:
    vars(select).pop("epoll", None)
before = dict(vars(select))
import imgstored
print("changed" if vars(select) != before else "as it was")
from imgstored.eventloop.kqueue_by_poll import is_installed
print(is_installed(), hasattr(select, "epoll"), "selectors" in sys.modules, "trio" in sys.modules)
"""


@pytest.mark.parametrize(
    ("platform", "kqueue", "epoll"),
    [
        ("linux", "", "epoll"),
        ("linux", "", ""),  # trio says then what is missing
        ("android", "", "epoll"),
        ("win32", "", ""),
        ("darwin", "kqueue", ""),
        ("darwin", "", ""),
        ("freebsd14", "kqueue", ""),
        ("openbsd7", "kqueue", ""),
        ("netbsd10", "kqueue", ""),
        ("dragonfly6", "kqueue", ""),
        ("sunos5", "kqueue", "epoll"),  # one day
    ],
)
def test_nothing_is_changed_where_trio_needs_nothing(platform, kqueue, epoll):
    first, second = python(INSTALLS, platform, kqueue, epoll).splitlines()
    assert (first, second) == ("as it was", f"False {bool(epoll)} False False")


@pytest.mark.parametrize("epoll", ["epoll", ""])
@pytest.mark.parametrize("platform", ["sunos5", "aix", "gnu0"])
def test_elsewhere_it_is_put_in_place_and_epoll_is_hidden(platform, epoll):
    assert python(INSTALLS, platform, "", epoll).splitlines() == ["changed", "True False True False"]


#: Without it, trio cannot be imported there: with epoll neither.
BARE_TRIO = """
import select, sys
sys.platform = "sunos5"
if sys.argv[1] != "epoll":
    del select.epoll
try:
    import trio
except (ImportError, NotImplementedError) as error:
    print(type(error).__name__)
"""


def test_trio_by_itself_cannot_be_imported_there():
    """If it can one day, the stand-in may go."""
    assert python(BARE_TRIO, "epoll").strip() == "ImportError"
    assert python(BARE_TRIO, "").strip() == "NotImplementedError"


#: All that of trio's waiting the daemon uses, and asyncio, which is to take what it took before.
IN_USE = """
import asyncio, select, selectors, socket, sys
if sys.argv[1] != "epoll":
    del select.epoll
sys.platform = "sunos5"
waits_by = "poll"
if sys.argv[1] == "devpoll":
    from tests.support.devpoll import FakeDevpoll
    select.devpoll, waits_by = FakeDevpoll, "devpoll"
import imgstored
import trio
assert imgstored.eventloop.kqueue_by_poll.is_installed()
assert selectors.DefaultSelector.__name__ in ("EpollSelector", "PollSelector"), selectors.DefaultSelector
asyncio.run(asyncio.sleep(0.001))

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)
    await stream.aclose()

async def talks(number, port):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    message = bytes([number]) * 300_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, message)
        got = b""
        while len(got) < len(message):
            got += await stream.receive_some()
    assert got == message
    await stream.send_eof()
    assert await stream.receive_some() == b""

async def closed_by_another():
    ours, theirs = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        async def waits():
            try:
                await ours.recv(1)
            except trio.ClosedResourceError:
                print("closed by another task")
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
    theirs.close()

async def closed_behind_trio():
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        async def waits():
            await trio.lowlevel.wait_readable(ours)
            try:
                ours.recv(1)
            except OSError as error:
                print("closed behind trio's back:", error.strerror)
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(ours.close)
    try:
        await trio.lowlevel.wait_readable(ours)
    except OSError as error:
        print("closed before:", error.strerror)
    theirs.close()

async def cancelled():
    ours, theirs = trio.socket.socketpair()
    for _ in range(2):
        with trio.move_on_after(0.001) as scope:
            await trio.lowlevel.wait_readable(ours)
        assert scope.cancelled_caught
    await theirs.send(b"x")
    assert await ours.recv(1) == b"x"
    print("cancelled")

async def main():
    assert trio.lowlevel.current_statistics().io_statistics.backend == "kqueue"
    assert trio.lowlevel.current_kqueue().waits_by == waits_by
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as talking:
            for number in range(50):
                talking.start_soon(talks, number, port)
        nursery.cancel_scope.cancel()
    await closed_by_another()
    await closed_behind_trio()
    await cancelled()

import trio.testing
trio.run(main)
"""


@pytest.mark.parametrize("there_is", ["epoll", "", "devpoll"])
def test_trio_waits_by_it(there_is):
    assert python(IN_USE, there_is).splitlines() == [
        "closed by another task",
        "closed behind trio's back: Bad file descriptor",
        "closed before: Bad file descriptor",
        "cancelled",
    ]


def test_nobody_waits_for_a_child_by_trio():
    """It would wait by kqueue's filter PROC, which the stand-in does not have."""
    found = {
        (name, node.attr)
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("run_process", "open_process")
    }
    assert found == set()
