"""The daemon's HTTP server in a thread of the test's own process, and raw conversations with it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from imgstored.httpd.message import HttpLimits
from imgstored.httpd.server import HttpServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from imgstored.httpd.connection import Application

#: Far longer than anything here takes.
PATIENCE = 30.0

LIMITS = HttpLimits(connections=64, client_connections=64)


class Running:
    """A server that runs."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def say(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes, until it closes the connection."""
        with self.connect() as connected:
            connected.sendall(data)
            with suppress(OSError):  # the server was faster
                connected.shutdown(socket.SHUT_WR)
            return everything(connected)


def everything(connected: socket.socket) -> bytes:
    """All that comes until the connection ends, in whatever way."""
    found = []
    try:
        while data := connected.recv(1 << 16):
            found.append(data)
    except ConnectionResetError:
        pass
    return b"".join(found)


@contextmanager
def serving(
    application: Application,
    limits: HttpLimits = LIMITS,
    *,
    rate: int = 0,
    context: ssl.SSLContext | None = None,
) -> Iterator[Running]:
    """Serves the application for as long as the context lasts."""
    started, stop = threading.Event(), threading.Event()
    found: list[Running] = []
    failure: list[BaseException] = []

    async def main() -> None:
        server = HttpServer(application, limits, rate=rate, context=context)
        bound = socket.create_server(("127.0.0.1", 0), backlog=128)
        found.append(Running(server, bound.getsockname()[1]))
        with bound:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, [bound])
                started.set()
                await trio.to_thread.run_sync(stop.wait)
                nursery.cancel_scope.cancel()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # noqa: BLE001 (the test gets it)
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(PATIENCE)
        assert not failure, failure
        yield found[0]
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not stop"
    assert not failure, failure
