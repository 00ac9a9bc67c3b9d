"""Sockets of strangers, with descriptors in them whose close takes as long as the stranger likes."""

from __future__ import annotations

import array
import select
import socket
import struct
import sys
import threading
from contextlib import ExitStack

import pytest
import trio

from imgstored.rpc import budgets, closing
from imgstored.rpc import server as server_module
from imgstored.rpc.closing import Closing
from imgstored.rpc.peer import Peer
from tests.rpc.harness import PATIENCE, connecting, serving
from tests.rpc.test_server import METHODS
from tests.support.descriptors import no_files_left, open_files
from tests.support.limits import socket_limits

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what Linux does")

#: More than there are threads, and than are given away at once.
MANY = closing._THREADS + 2 * closing._BATCH


class Lingering:
    """TCP sockets whose close takes ten minutes, unless the other end goes."""

    def __init__(self, stack: ExitStack) -> None:
        self._others: list[socket.socket] = []
        stack.callback(self.end)
        self._sink = stack.enter_context(socket.socket())
        self._sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sink.bind(("127.0.0.1", 0))
        self._sink.listen(MANY)

    def pass_one(self, stranger: socket.socket) -> None:
        """Sends one, which nobody else has then."""
        with self._made() as peer:
            rights = array.array("i", [peer.fileno()])
            stranger.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def end(self) -> None:
        """Lets all of them be closed."""
        for each in self._others:
            each.close()

    def _made(self) -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.connect(self._sink.getsockname())
        accepted, _ = self._sink.accept()
        self._others.append(accepted)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        peer.setblocking(False)
        while True:
            try:
                peer.send(bytes(1 << 16))
            except BlockingIOError:
                return peer


def closers() -> int:
    """Threads that close such sockets, or give them away."""
    return sum(thread.name.startswith(closing.NAME) for thread in threading.enumerate())


def answered(stranger: socket.socket) -> bool:
    """Whether the server has answered, or closed the connection."""
    return bool(select.select([stranger], [], [], 0)[0])


async def watched(settled) -> int:
    """Waits until it is so; the most threads that closed sockets meanwhile."""
    most = 0
    with trio.fail_after(PATIENCE):
        while not settled():
            most = max(most, closers())
            await trio.sleep(0.01)
    return max(most, closers())


@on_linux
async def test_what_is_slow_to_close_takes_few_threads_and_descriptors():
    bounded = Closing()
    with no_files_left(PATIENCE), ExitStack() as stack:
        lingering = Lingering(stack)
        ours = []
        for _ in range(MANY):
            connected, stranger = socket.socketpair()
            stack.callback(stranger.close)
            lingering.pass_one(stranger)
            connected.shutdown(socket.SHUT_RDWR)
            ours.append(connected)
            bounded.close(connected)
        # A few wait for a thread, or for others.
        most = await watched(lambda: sum(each.fileno() >= 0 for each in ours) < closing._BATCH)
        assert closing._THREADS <= most <= closing._THREADS + 1
        lingering.end()
        await watched(lambda: all(each.fileno() < 0 for each in ours) and not closers())
    assert not [each for each in bounded._programs if each.poll() is None]


@on_linux
async def test_whoever_is_turned_away_takes_few_threads(path, monkeypatch):
    """Whether there is no place, or somebody connects too often."""
    monkeypatch.setattr(server_module, "peer_at_once", lambda _: Peer(65533, 1, frozenset({65533})))
    monkeypatch.setattr(budgets, "_CONNECTS_BURST", MANY // 2)
    with no_files_left(PATIENCE), ExitStack() as stack:
        lingering = Lingering(stack)
        async with (
            serving(path, METHODS, limits=socket_limits(user_clients=1, stop=0.3)),
            connecting(path) as client,
        ):
            assert await client.call(1, "read") == (None, "said")
            before = len(open_files())
            strangers = []
            for _ in range(MANY):
                # The server does not run meanwhile: it finds all of it at once.
                stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
                stranger.connect(str(path))
                lingering.pass_one(stranger)
                strangers.append(stranger)
            await client.ask(2, "read")
            # Of each the test has two descriptors.
            most = await watched(
                lambda: (
                    all(map(answered, strangers)) and len(open_files()) - before - 2 * MANY < closing._BATCH
                )
            )
            # On a busy machine they are not all seen at once.
            assert 0 < most <= closing._THREADS + 1
            assert await client.receive() == [1, 2, None, "said"]
        lingering.end()


async def test_sockets_without_a_thread_are_closed_later(monkeypatch):
    def start(*_, **__):
        raise RuntimeError("can't start new thread")

    sockets = [socket.socket() for _ in range(2 * MANY)]
    closes = Closing()
    with monkeypatch.context() as patched:
        patched.setattr(trio.lowlevel, "start_thread_soon", start)
        for each in sockets[1:]:
            closes.close(each)
    closes.close(sockets[0])
    with trio.fail_after(PATIENCE):
        while any(each.fileno() >= 0 for each in sockets):  # noqa: ASYNC110 (threads close them)
            await trio.sleep(0.01)
