"""A request as an application gets it, the answer that it gives, and bounds on both."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


class HttpLimits(Struct, frozen=True):
    """Bounds on what a client may take. Sizes in bytes, times in seconds."""

    connections: int  #: at a time, of all clients
    client_connections: int  #: at a time, of one IPv4 address, or one IPv6 network of 64 bits
    head: int = 16 << 10
    head_seconds: float = 10.0  #: for the whole head of a request, and for the TLS handshake
    idle_seconds: float = 30.0  #: between two requests
    silence_seconds: float = 30.0  #: without a byte of a body, either way
    min_rate: int = 512  #: bytes a second of a body, either way, over `rate_seconds`
    rate_seconds: float = 60.0
    handlers: int = 256  #: requests at a time: each has a thread
    #: Seconds after which a connection whose client keeps the server waiting, also by not reading, gives its
    #: place or its thread to another one; None: it keeps them
    grace: float | None = None


class HttpError(Exception):
    """A request is refused; the client gets the status, and the text in the application's own form."""

    def __init__(self, status: int, message: str, *, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = tuple(headers)


class Body(Protocol):
    """A request's body, which comes while it is read: from a connection, or in a test from memory."""

    @property
    def length(self) -> int | None:
        """Bytes, as the client has announced; None where it sends chunks."""
        ...

    def pieces(self, limit: int) -> Iterator[bytes]:
        """The bytes. Blocks. Raises `HttpError`: 413 for more than `limit` bytes, 408 for a slow client."""
        ...


class Request(Struct, frozen=True):
    """A request. The path is decoded once, and is never a file's."""

    method: str
    path: str
    query: str  #: as it came, without the question mark
    headers: Mapping[str, str]  #: names in lower case
    body: Body
    client: str  #: the address, for limits and the log
    secure: bool  #: it came over TLS

    def read(self, limit: int) -> bytes:
        """The whole body. Blocks. Raises `HttpError`."""
        return b"".join(self.body.pieces(limit))


class Span(Struct, frozen=True):
    """Bytes [start, stop) of an open file."""

    fd: int
    start: int
    stop: int
    #: Given an offset, waits a moment for bytes from there on, and returns where they end; the offset itself
    #: if they are still to come. Raises where they never will: then the answer is cut off, and
    #: the client sees that it is not whole.
    available: Callable[[int], int] | None = None


class Response(Struct):
    """An answer. `close` is called once nothing of it is needed any more, whether it was sent or not."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: Sequence[bytes | Span] = ()
    close: Callable[[], None] | None = None

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return sum(len(part) if isinstance(part, bytes) else part.stop - part.start for part in self.parts)


def text(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """An answer of one line for people."""
    return Response(status, [("Content-Type", TEXT), *headers], [f"{message}\n".encode()])


def json(document: object, status: int = HTTPStatus.OK, *headers: tuple[str, str]) -> Response:
    """An answer for programs."""
    return Response(status, [("Content-Type", JSON), *headers], [msgspec.json.encode(document)])


class OpenFile(Struct):
    """A file to be served, open for reading. The answer closes it."""

    fd: int
    size: int  #: bytes; of a file that is still to come, what it will have
    etag: str  #: with its quotes
    modified: float  #: seconds since the epoch
    kind: str = "application/octet-stream"
    headers: Sequence[tuple[str, str]] = ()  #: of an answer with the whole file
    available: Callable[[int], int] | None = None  #: as in `Span`
    released: Callable[[], None] | None = None  #: called after the file was closed
    #: Other bytes were once given out as this file: a range is for who shows, by If-Range, to have these.
    only_if_range: bool = False

    def close(self) -> None:
        """Closes the file, once."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            if self.released is not None:
                self.released()
