"""A small HTTP server on raw sockets, for faults that a real server cannot be made to have."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


@dataclass(frozen=True)
class Request:
    """What a client asked. Names of headers are in lower case."""

    number: int  #: 1, 2, … over all connections
    target: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int | None]:
        """The [start, stop) of the Range header; all of the file where there is none."""
        first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else None


class Wire:
    """The server's end of a connection."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self._sock = sock
        self._stopping = stopping

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._sock.sendall(data)

    def reply(self, status: str, headers: dict[str, str], body: bytes = b"", *, length: bool = True) -> None:
        """Sends an answer; with a Content-Length that is right unless `headers` has one."""
        lines = [f"HTTP/1.1 {status}"]
        if length and "Content-Length" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def part(self, content: bytes, request: Request, *, etag: str | None = '"1"', **headers: str) -> None:
        """Sends what was asked for, as a sound server does. `headers` (with _ for -) replace its own."""
        start, stop = request.range
        stop = len(content) if stop is None else min(stop, len(content))
        own = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        if etag is not None:
            own["ETag"] = etag
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply("206 Partial Content", own, content[start:stop])

    def stall(self, seconds: float = 30) -> None:
        """Sends nothing, for so long, or until the server is stopped."""
        self._stopping.wait(seconds)

    def close(self) -> None:
        """Ends the connection in good order."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Ends what it sends, and reads on until the client closes, too, or the server is stopped."""
        self._sock.shutdown(socket.SHUT_WR)
        while not self._stopping.is_set() and self._sock.recv(1 << 16):
            pass

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The stream that requests are read from would keep a socket open that is merely closed.
        os.close(self._sock.detach())


class FaultyServer:
    """Serves with `answer`, called once a request, in the connection's own thread."""

    def __init__(self, answer: Callable[[Request, Wire], None]) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FaultyServer:
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, ValueError), sock.makefile("rb") as stream:
            while (request := self._read(stream)) is not None:
                self._answer(request, Wire(sock, self._stopping))
        with self._lock:
            self._open.discard(sock)

    def _read(self, stream: socket.SocketIO) -> Request | None:
        first = stream.readline().split()
        if len(first) != 3:
            return None
        headers: dict[str, str] = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        with self._lock:
            request = Request(len(self.requests) + 1, first[1].decode(), headers)
            self.requests.append(request)
        return request
