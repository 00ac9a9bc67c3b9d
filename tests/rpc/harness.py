"""A real server on a real socket, and clients that may be as odd as a test wants."""

from __future__ import annotations

import array
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgpack
import trio
from imgproto.operations import Operation

from imgstored.rpc.call import Method
from imgstored.rpc.server import Server
from tests.support.descriptors import open_files
from tests.support.limits import socket_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

#: Far longer than anything here takes: a test that waits so long has failed.
PATIENCE = 30.0


@asynccontextmanager
async def serving(path: Path, methods: Mapping[str, Any], **settings: Any) -> AsyncIterator[Server]:
    """A server that runs as long as the block, and is then stopped as the daemon stops it."""
    server = Server(path, methods, **{"limits": socket_limits(), **settings})
    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            yield server
            server.stop()


def method(run: Any, *params: str, change: bool = False, file: bool = False) -> Method:
    """A method of a test's own: `run` takes the call alone, the parameters may be anything."""
    shape: Any = TypedDict("Params", dict.fromkeys(params, NotRequired[Any]))
    operation = Operation("m", shape, object, "change" if change else "read", file=file)
    return Method(operation, lambda _, call: run(call))


class Wire:
    """One connection. Receives messages as lists; `None` is the end."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self.socket = connected
        self._unpacker = msgpack.Unpacker(raw=False)

    async def send(self, *messages: Any) -> None:
        await self.raw(b"".join(map(msgpack.packb, messages)))

    async def raw(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE):
            view = memoryview(data)
            while view:
                view = view[await self.socket.send(view) :]

    async def ask(self, id_: int, method: str, **params: Any) -> None:
        await self.send([0, id_, method, [params]])

    async def call(self, id_: int, method: str, **params: Any) -> Any:
        """Asks; the next message is the answer: (error, result)."""
        await self.ask(id_, method, **params)
        kind, answered, error, result = await self.receive()
        assert (kind, answered) == (1, id_)
        return error, result

    async def pass_files(self, data: bytes, *files: int) -> None:
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        assert await self.socket.sendmsg([data], passed) == len(data)

    async def receive(self) -> Any:
        with trio.fail_after(PATIENCE):
            while True:
                for message in self._unpacker:
                    return message
                try:
                    data = await self.socket.recv(1 << 16)
                except ConnectionResetError:  # Linux: the daemon closed with something left unread
                    return None
                if not data:
                    return None
                self._unpacker.feed(data)

    async def rest(self) -> list[Any]:
        """All messages until the end."""
        messages = []
        while (message := await self.receive()) is not None:
            messages.append(message)
        return messages


@asynccontextmanager
async def connecting(path: Path) -> AsyncIterator[Wire]:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        await connected.connect(str(path))
        yield Wire(connected)


def request(id_: int, method: str, **params: Any) -> bytes:
    packed: bytes = msgpack.packb([0, id_, method, [params]])
    return packed


_AS_SOMEBODY = """
import os, socket, sys
path, uid, gid, groups, data, then = sys.argv[1:]
connected = socket.socket(socket.AF_UNIX)
os.setgroups([int(group) for group in groups.split()])
os.setgid(int(gid))
os.setuid(int(uid))
connected.connect(path)
exec(then)
try:
    connected.sendall(bytes.fromhex(data))
except BrokenPipeError:
    pass  # what the daemon said before it closed can still be read
while piece := connected.recv(65536):
    sys.stdout.write(piece.hex() + chr(10))
    sys.stdout.flush()
"""


class Somebody:
    """Another process, with an identity of its own, that connects and asks."""

    def __init__(
        self,
        path: Path,
        data: bytes,
        *,
        uid: int = 65534,
        gid: int = 65534,
        groups: Sequence[int] = (),
        then: str = "",
    ) -> None:
        names = [str(path), str(uid), str(gid), " ".join(map(str, groups)), data.hex(), then]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _AS_SOMEBODY, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it writes."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def receive(self) -> list[Any]:
        """The messages of the next piece that comes; none when it could not connect."""
        unpacker = msgpack.Unpacker(raw=False)
        unpacker.feed(bytes.fromhex(self.line()))
        return list(unpacker)

    def __enter__(self) -> Somebody:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


async def only_open(files: set[str]) -> None:
    """Returns once this process has these files open at most: it closes those of clients soon."""
    with trio.fail_after(60):
        while not open_files() <= files:  # noqa: ASYNC110 - other threads close them
            await trio.sleep(0.01)
