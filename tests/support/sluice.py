"""Holds back what a server sends: so many bytes pass over all connections, and the rest when it is opened.

As `tests.support.gate`, but between a client and a server of any kind, which it does not understand.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_PIECE = 1 << 14


class Sluice:
    """Passes bytes between clients and the server at `port` of 127.0.0.1; open at first."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._state = threading.Condition()
        self._left: int | None = None  # bytes that pass yet; None: all
        self._held = 0
        self._ended = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def held(self) -> int:
        """Connections of which bytes wait here at this moment."""
        with self._state:
            return self._held

    @property
    def left(self) -> int | None:
        """Bytes that pass yet; None: all."""
        with self._state:
            return self._left

    def hold(self, after: int = 0) -> None:
        """From now on so many bytes of the server pass, and then none."""
        with self._state:
            self._left = after
            self._state.notify_all()

    def open(self) -> None:
        """All passes, also of what is held."""
        with self._state:
            self._left = None
            self._state.notify_all()

    def stop(self) -> None:
        """Ends all connections, and refuses new ones."""
        with self._state:
            self._ended = True
            self._state.notify_all()
        for sock in (self._listening, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in [*self._threads]:
            thread.join()
        for sock in (self._listening, *self._open):
            sock.close()

    def __enter__(self) -> Sluice:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with self._state:
                    if self._ended:
                        client.close()
                        return
                    server = socket.create_connection(self._server)
                    self._open += [client, server]
                    self._start(self._pass, client, server, False)
                    self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, held: bool) -> None:
        with suppress(OSError):
            while data := memoryview(source.recv(_PIECE)):
                while data:
                    size = self._may_pass(len(data)) if held else len(data)
                    target.sendall(data[:size])
                    data = data[size:]
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, wanted: int) -> int:
        """Waits until some bytes may pass; how many. Raises `OSError` at the end."""
        with self._state:
            self._held += 1
            self._state.wait_for(lambda: self._left != 0 or self._ended)
            self._held -= 1
            if self._ended:
                raise ConnectionAbortedError
            size = wanted if self._left is None else min(wanted, self._left)
            if self._left is not None:
                self._left -= size
            return size
