"""A web server that holds its files back: so many bytes pass, and the rest when it is opened.

A rate would do so for a while, which is over sooner or later than a busy machine needs. Here a test says how
far a download comes, and for how long. A daemon that waits for longer than a minute needs `min_rate = 0`.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_PIECE = 1 << 14
#: Seconds from one byte to the next of an answer that is held: nobody is to take it for dead.
_SIGN_OF_LIFE = 2.0
_RANGE = re.compile(rb"\r\nrange: bytes=([0-9]+)-([0-9]*)\r\n", re.IGNORECASE)
_REQUEST = re.compile(rb"(GET|HEAD) (/[^ ?]*)[^ ]* HTTP/1\.[01]\r\n")
_HEAD = 1 << 16


class Gate:
    """Serves the files below `root`; open at first. nginx passes requests on by `location`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._state = threading.Condition()
        self._left: int | None = None  # bytes that pass yet; None: all
        self._given = 0
        self._ended = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """Without a trailing slash."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def location(self) -> str:
        """nginx's settings of a location that is held back: it hands on what comes as it comes."""
        return (
            f"proxy_pass {self.url}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 1d;"
            " proxy_send_timeout 1d;"
        )

    @property
    def given(self) -> int:
        """Bytes of files that were sent so far, also of answers that are under way."""
        with self._state:
            return self._given

    def hold(self, after: int = 0) -> None:
        """From now on so many bytes of files pass, over all connections, and then none."""
        with self._state:
            self._left = after

    def open(self) -> None:
        """All passes, also of what is held."""
        with self._state:
            self._left = None
            self._state.notify_all()

    def __enter__(self) -> Gate:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._state:
            self._ended = True
            self._state.notify_all()
        # A close alone does not wake who waits in accept.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in [*self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.add(connection)
                self._start(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            waiting = b""
            while not self._ended:
                while b"\r\n\r\n" not in waiting:
                    if not (data := connection.recv(_HEAD)) or len(waiting) > _HEAD:
                        return
                    waiting += data
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                self._answer(connection, head + b"\r\n")
        self._open.discard(connection)

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        request = _REQUEST.match(head)
        path = self._root / request[2].decode().lstrip("/") if request else self._root
        if request is None or not path.is_file():
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        content = path.read_bytes()
        start, stop, status = 0, len(content), "200 OK"
        lines = [
            "Accept-Ranges: bytes",
            f'ETag: "{len(content):x}"',
            "Content-Type: application/octet-stream",
        ]
        if (asked := _RANGE.search(head)) is not None:
            start, status = int(asked[1]), "206 Partial Content"
            stop = min(stop, int(asked[2]) + 1) if asked[2] else stop
            lines.append(f"Content-Range: bytes {start}-{stop - 1}/{len(content)}")
        lines = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {stop - start}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        if request[1] == b"GET":
            self._send(connection, memoryview(content)[start:stop])

    def _send(self, connection: socket.socket, body: memoryview) -> None:
        while body:
            size = self._may_send(min(_PIECE, len(body)))
            connection.sendall(body[:size])
            body = body[size:]

    def _may_send(self, wanted: int) -> int:
        """How many bytes pass now; of what is held, one now and then. Raises `OSError` at the end."""
        with self._state:
            if self._left == 0:
                self._state.wait_for(lambda: self._left != 0 or self._ended, _SIGN_OF_LIFE)
            if self._ended:
                raise ConnectionAbortedError
            size = max(1, wanted if self._left is None else min(wanted, self._left))
            if self._left:
                self._left -= size
            self._given += size
            return size
