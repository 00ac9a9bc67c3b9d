"""One client's socket: bytes and descriptors in, bytes out; a stranger's descriptor never blocks the daemon.

Everybody who can connect can pass a descriptor unasked. If nobody takes the descriptor, the kernel closes it
within our `recv`, or within our `close` if it was not received yet. To close a TCP socket with SO_LINGER, for
example, takes as long as its owner likes (8 s for 8 s of lingering, measured on Linux 6.18). So for clients
that may not change, receiving and closing run in threads that nothing else waits for: one for each connection
that has a place, and a few for all that are turned away.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys
import termios
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from imgstored.host import foreign_files
from imgstored.rpc.closing import NAME, Closing
from imgstored.rpc.framing import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Space for one descriptor; the kernel drops others and reports that. Padding would let a second one in.
_ONE_DESCRIPTOR = socket.CMSG_LEN(array.array("i").itemsize)
#: On a system without this flag, a program that starts at that very moment inherits the descriptor.
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: Seconds that even a stopping daemon waits for a socket to close, which usually takes microseconds.
_CLOSE_SECONDS = 0.5


class ClientSocket:
    """A connected socket, whose owner closes it. Used in trio's thread; one task receives, and one sends."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self._raw = socket.socket(fileno=connected.detach())
        self._socket = trio.socket.from_stdlib_socket(self._raw)
        self._trusted = False
        self._receiving = threading.Lock()  # held while the socket is in use in a thread
        self._one_thread = trio.CapacityLimiter(1)
        self._closed = False

    @property
    def raw(self) -> socket.socket:
        """The socket itself, for its options only."""
        return self._raw

    def trust(self) -> None:
        """Lets the client pass descriptors: a client that may change has simpler ways to do harm."""
        self._trusted = True

    async def receive(self, size: int) -> tuple[bytes, int | None]:
        """At most `size` bytes, none at the end, and the descriptor that came with them.

        The caller closes the descriptor. A client that is not trusted cannot pass one. Raises `OSError`, and
        `ProtocolError` for more than one descriptor.
        """
        if not self._trusted:
            return await self._receive_from_stranger(size), None
        data, ancillary, flags, _ = await self._socket.recvmsg(size, _ONE_DESCRIPTOR, _CLOSE_ON_EXEC)
        files = _descriptors(ancillary)
        if len(files) > 1 or flags & socket.MSG_CTRUNC:
            for file in files:
                foreign_files.close(file)
            raise ProtocolError(
                "a descriptor was lost: there was more than one, or the daemon has too many open files",
                hint="pass one descriptor with a request, in a sendmsg of its own",
            )
        return data, files[0] if files else None

    async def send(self, data: memoryview) -> int:
        """Sends some of the bytes, at least one; returns their number. Raises `OSError`."""
        return await self._socket.send(data)

    async def close(self) -> None:
        """Closes the socket. When cancelled it may be closed somewhat later; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):  # the client has left already
            self._raw.shutdown(socket.SHUT_RDWR)
        if self._trusted:
            self._socket.close()
            return
        if self._receiving.acquire(blocking=False):
            try:
                if _is_empty(self._raw):
                    self._socket.close()
                    return
            finally:
                self._receiving.release()
        closed = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):  # nobody waited
                token.run_sync_soon(closed.set)

        try:
            trio.lowlevel.start_thread_soon(self._close_in_thread, tell, name=NAME)
        except (RuntimeError, MemoryError):  # there is no thread for it now
            _CLOSING.close(self._raw)
            return
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await closed.wait()
        await closed.wait()

    def give_up(self) -> None:
        """Closes the socket of a client that is turned away, and was not listened to. Never waits."""
        if not self._closed:
            self._closed = True
            _turned_away(self._raw)

    async def _receive_from_stranger(self, size: int) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._raw)
            try:
                return await trio.to_thread.run_sync(
                    self._receive_in_thread, size, limiter=self._one_thread, abandon_on_cancel=True
                )
            except BlockingIOError:
                continue

    def _receive_in_thread(self, size: int) -> bytes:
        with self._receiving:
            return self._raw.recv(size)

    def _close_in_thread(self) -> None:
        with self._receiving:
            self._raw.close()


def turn_away(connected: socket.socket, message: bytes) -> None:
    """Sends a message to a client that has just connected, and closes the socket. Never blocks."""
    with suppress(OSError):  # the client has left already
        connected.send(message, socket.MSG_DONTWAIT)
    _turned_away(connected)


#: Of all servers of this process: what is bounded is the process.
_CLOSING = Closing()


def _turned_away(connected: socket.socket) -> None:
    with suppress(OSError):  # the client has left already
        connected.shutdown(socket.SHUT_RDWR)
    if _is_empty(connected):
        connected.close()
    else:
        _CLOSING.close(connected)


def _is_empty(down: socket.socket) -> bool:
    """True if a socket that was shut down has nothing to receive, and so no descriptor either."""
    if sys.platform != "linux":
        return False  # unknown on other systems
    try:
        waiting = fcntl.ioctl(down.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return False
    return struct.unpack("i", waiting) == (0,)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return found.tolist()
