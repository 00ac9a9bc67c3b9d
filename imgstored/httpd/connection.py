"""One client's connection: reads a request, calls the application, sends the answer. Blocks; for a thread.

h11 keeps the state of the connection, and refuses what is ambiguous, such as two lengths of one body.
"""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import h11
import structlog

from imgstored import __version__
from imgstored.httpd.message import HttpError, HttpLimits, Request, Response, Span
from imgstored.httpd.pace import PIECE

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from imgstored.httpd.pace import Pace

    Application = Callable[[Request], Response]

log = structlog.get_logger(__name__)

#: Bytes that are read at a time: of a head, which h11 bounds only as long as it is not whole; of a body.
_READ_HEAD: Final = 4 << 10
_READ: Final = 64 << 10
#: Bytes that one sendfile(2) may send where nothing bounds the rate.
_SLICE: Final = 1 << 23
#: Bytes of an answer from memory that are put together.
_ONE_PIECE: Final = 64 << 10
#: Bytes of a file that TLS takes at a time.
_TLS_PIECE: Final = 1 << 18
#: Seconds, and bytes, that a client may still send after an answer that ends the connection.
_LINGER_SECONDS: Final = 5.0
_LINGER_BYTES: Final = 64 << 20

_FAULT: Final = "a fault of the server; its log has the details"
_ABSOLUTE: Final = re.compile(r"^https?://[^/?]*", re.IGNORECASE)

_SERVER: Final = f"imgstored/{__version__}"


class _Gone(Exception):  # noqa: N818 (it is no fault)
    """The client is gone, or too slow: nothing can be said to it any more."""


class _Rate:
    """Ends a connection whose bytes come, or go, too slowly for too long."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._began = time.monotonic()
        self._moved = 0

    def moved(self, size: int) -> None:
        """Counts bytes. Raises `_Gone` where they are too few."""
        self._moved += size
        passed = time.monotonic() - self._began
        if passed > self._limits.rate_seconds:
            if self._moved < self._limits.min_rate * passed:
                raise _Gone("too slow")
            self._began, self._moved = time.monotonic(), 0


class _Body:
    """A request's body, from the connection."""

    def __init__(self, connection: Connection, length: int | None) -> None:
        self._connection = connection
        self.length = length

    def pieces(self, limit: int) -> Iterator[bytes]:
        """As `message.Body.pieces`."""
        too_large = HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {limit} bytes")
        if self.length is not None and self.length > limit:
            raise too_large
        came = 0
        for piece in self._connection.body():
            came += len(piece)
            if came > limit:
                raise too_large
            yield piece


class Connection:
    """A connection. All methods but `abort` are for one thread at a time."""

    def __init__(
        self,
        connected: socket.socket,
        address: str,
        counts_as: str,
        application: Application,
        limits: HttpLimits,
        pace: Pace,
        context: ssl.SSLContext | None,
        refusal: Callable[[int, str], Response],
    ) -> None:
        """Takes the socket over. `counts_as` is whom its bytes are for; the rest is `HttpServer`'s."""
        self._socket = connected
        self._address = address
        self._counts_as = counts_as
        self._application = application
        self._limits = limits
        self._pace = pace
        self._context = context
        self._refusal = refusal
        self._secure = False
        self._bound: float | None = None  # seconds, of the socket's calls
        self._full = False  # the socket took less than it was given
        self.sent = 0  #: bytes of answers
        self.requests = 0  #: as the server counts them
        self.idle = False  #: it waits for a request, of which nothing has come
        #: Since when the server waits for the client (`time.monotonic`), None while the client waits.
        self.waits_since: float | None = time.monotonic()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)

    # -- for the server --------------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    @property
    def buffered(self) -> bool:
        """True if bytes of the next request are here already, so that the socket need not become readable."""
        pending = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return bool(pending or self._http.trailing_data[0])

    def abort(self) -> None:
        """Ends the connection at once; the thread that uses it comes back. For any thread."""
        with suppress(OSError):  # it has ended
            # Of the socket itself: TLS's own method would take the session from the thread that uses it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def serve_one(self) -> bool:
        """Answers one request. Whether another may follow."""
        try:
            return self._serve_one()
        except (_Gone, OSError, h11.LocalProtocolError) as error:
            log.debug("a connection ended", client=self._address, error=str(error))
            return False

    def is_asked_again(self, seconds: float) -> bool:
        """Waits so long for the next request; whether it has begun to come, or the client has left."""
        self.waits_since = time.monotonic()
        if self.buffered:
            return True
        self.idle = True
        came = self._poll(select.POLLIN, seconds)
        self.idle = False
        return came

    # -- one request -----------------------------------------------------------------------------------------

    def _serve_one(self) -> bool:
        self._begin_tls()
        try:
            head = self._head()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            self._send(None, self._refusal(status, str(error)))
            return self._linger()
        if head is None:
            return False
        if _is_ambiguous(head):
            self._send(None, self._refusal(HTTPStatus.BAD_REQUEST, "the length of the request is ambiguous"))
            return self._linger()
        request = self._request(head)
        response = self._answer(request)
        self.waits_since = time.monotonic()
        try:
            self._send(head, response)
        finally:
            if response.close is not None:
                response.close()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return self._linger()

    def _begin_tls(self) -> None:
        if self._context is None or self._secure:
            return
        self._limit(self._limits.head_seconds)
        # The new socket takes the descriptor over.
        wrapped = self._context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = wrapped
        # A handshake has some round trips, each with the limit.
        wrapped.do_handshake()
        self._secure = True

    def _head(self) -> h11.Request | None:
        """The next request; None when the client has left. Raises `_Gone`, `h11.RemoteProtocolError`."""
        deadline = time.monotonic() + self._limits.head_seconds
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise _Gone("the head of a request takes too long")
            self._receive(left, _READ_HEAD)

    def _receive(self, seconds: float, most: int) -> int:
        """Takes what the client sends; returns how many bytes. Raises `_Gone`."""
        self._limit(max(0.001, seconds))
        try:
            data = self._socket.recv(most)
        except OSError as error:
            raise _Gone(f"nothing comes any more: {error}") from error
        self._http.receive_data(data)
        return len(data)

    def _request(self, head: h11.Request) -> Request:
        # The absolute form, which is for proxies, names the server, too (RFC 9112, 3.2.2).
        target = _ABSOLUTE.sub("", head.target.decode("ascii")) or "/"
        target, _, query = target.partition("?")
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, one = name.decode("ascii"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {one}" if key in headers else one
        length = headers.get("content-length")
        if length in (None, "0") and "transfer-encoding" not in headers:
            self._http.next_event()  # the end of a request without a body
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(target, errors="replace"),
            query=query,
            headers=headers,
            body=_Body(self, None if length is None else int(length)),
            client=self._address,
            secure=self._secure,
        )

    def _answer(self, request: Request) -> Response:
        self.waits_since = None
        try:
            return self._application(request)
        except HttpError as error:
            response = self._refusal(error.status, error.message)
            response.headers.extend(error.headers)
            return response
        except _Gone:
            raise
        except h11.RemoteProtocolError as error:
            return self._refusal(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            # Such as no descriptors, or a disk that fails: it may pass.
            log.error("a request failed", path=request.path[:200], error=str(error))
            return self._refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server cannot do it now; ask again")
        except Exception:
            # One request must not end the daemon, nor show its inside.
            log.exception("a request failed by a mistake", path=request.path[:200])
            return self._refusal(HTTPStatus.INTERNAL_SERVER_ERROR, _FAULT)

    # -- bodies of requests ----------------------------------------------------------------------------------

    def body(self) -> Iterator[bytes]:
        """The body's pieces, as they come."""
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._write(self._http.send(go_on))
        rate = _Rate(self._limits)
        while self._http.their_state is h11.SEND_BODY:
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif event is h11.NEED_DATA:
                rate.moved(self._receive(self._limits.silence_seconds, _READ))
            # Else it is the end; a body that is cut off is an error of h11's.

    # -- answers ---------------------------------------------------------------------------------------------

    def _send(self, head: h11.Request | None, response: Response) -> None:
        headers = [
            ("Date", _date(int(time.time()))),
            ("Server", _SERVER),
            *response.headers,
        ]
        length = response.length
        bodiless = response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if not bodiless:
            headers.append(("Content-Length", str(length)))
        if head is None or self._http.their_state is not h11.DONE:
            # What is left of the request's body would be taken for the next request.
            headers.append(("Connection", "close"))
        only_head = bodiless or (head is not None and head.method == b"HEAD")
        start = self._http.send(
            h11.Response(
                status_code=response.status,
                headers=headers,
                reason=_reason(response.status),
            )
        )
        parts = () if only_head or not length else response.parts
        if parts:
            # h11 counts the bytes against Content-Length, and never sees them.
            self._http.send_with_data_passthrough(h11.Data(data=_Placeholder(length)))  # type: ignore[arg-type]
        pieces = _gathered([start or b"", *parts])
        if any(isinstance(part, Span) for part in parts):
            with self._pace.client(self._counts_as) as turn:
                self._send_pieces(pieces, turn)
        else:
            self._send_pieces(pieces, None)
        self._http.send(h11.EndOfMessage())

    def _send_pieces(self, pieces: Iterator[bytes | Span], turn: threading.Lock | None) -> None:
        piece = next(pieces)
        for following in chain(pieces, [None]):
            if isinstance(piece, Span):
                assert turn is not None
                self._send_span(piece, turn)
            else:
                # The last one would wait for more.
                self._write(piece, more=following is not None)
            if following is not None:
                piece = following

    def _send_span(self, part: Span, turn: threading.Lock) -> None:
        send = self._send_tls if self._secure else self._send_file
        offset, rate = part.start, _Rate(self._limits)
        while offset < part.stop:
            stop = part.stop
            if part.available is not None:
                try:
                    stop = min(stop, part.available(offset))
                except Exception as error:
                    raise _Gone(f"the rest of the file does not come: {error}") from error
                if stop == offset:
                    self._check_client()
                    rate = _Rate(self._limits)
            while offset < stop:
                most = PIECE if self._pace.bounded else _TLS_PIECE if self._secure else _SLICE
                size = min(stop - offset, most)
                self._pace.wait(turn, size, self._check_connection)
                sent = send(part.fd, offset, size)
                offset += sent
                # TLS counts what it writes by itself.
                self.sent += 0 if self._secure else sent
                rate.moved(sent)

    def _check_connection(self) -> None:
        """Raises `_Gone` if the connection has ended, by either side."""
        if self._poll(0, 0):
            raise _Gone("the client left while it waited for its turn")

    def _check_client(self) -> None:
        """Raises `_Gone` if the client has closed the connection, while there is nothing to send to it."""
        if self._poll(select.POLLIN, 0):
            self._limit(0)
            with suppress(BlockingIOError):
                if not socket.socket.recv(self._socket, 1, socket.MSG_PEEK):
                    raise _Gone("the client left while it waited")

    def _send_file(self, fd: int, offset: int, size: int) -> int:
        """Sends some of `size` bytes; returns how many."""
        self._limit(0)
        while True:
            if self._full:
                self._wait_until_writable()
            try:
                sent = os.sendfile(self._socket.fileno(), fd, offset, size)
            except BlockingIOError:
                self._full = True
                continue
            if not sent:
                raise _Gone("the file is shorter than it was")
            # Another call now would only say so.
            self._full = sent < size
            return sent

    def _send_tls(self, fd: int, offset: int, size: int) -> int:
        data = os.pread(fd, size, offset)
        if not data:
            raise _Gone("the file is shorter than it was")
        self._write(data)
        return len(data)

    def _limit(self, seconds: float) -> None:
        """Bounds each call of the socket from now on; 0: none waits."""
        if self._bound != seconds:
            # Each change is a call of the system, for which the interpreter lets other threads go first.
            self._socket.settimeout(seconds)
            self._bound = seconds

    def _poll(self, events: int, seconds: float) -> bool:
        """True if any of the events, or the end of the connection, came within so many seconds."""
        poll = select.poll()
        poll.register(self._socket, events)
        return bool(poll.poll(seconds * 1000))

    def _wait_until_writable(self) -> None:
        if not self._poll(select.POLLOUT, self._limits.silence_seconds):
            raise _Gone("the client does not read")

    def _write(self, data: bytes | None, *, more: bool = False) -> None:
        if not data:
            return
        # The limit is for each piece: a client that reads slowly gets all of a long answer.
        self._limit(self._limits.silence_seconds)
        flags = getattr(socket, "MSG_MORE", 0) if more and not self._secure else 0
        left, rate = memoryview(data), _Rate(self._limits)
        while left:
            sent = self._socket.send(left[:_READ], flags) if flags else self._socket.send(left[:_READ])
            rate.moved(sent)
            self.sent += sent
            left = left[sent:]

    def _linger(self) -> bool:
        """Takes what the client still sends: closing before that destroys the answer (RFC 9112, 9.6)."""
        if self._http.our_state is h11.ERROR:
            return False
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._limit(_LINGER_SECONDS)
            deadline, came = time.monotonic() + _LINGER_SECONDS, 0
            while time.monotonic() < deadline and came < _LINGER_BYTES:
                data = socket.socket.recv(self._socket, _READ)
                if not data:
                    break
                came += len(data)
        except OSError:
            pass  # the client is gone
        return False


def _is_ambiguous(head: h11.Request) -> bool:
    """True if a proxy before us may have seen another end of the request (RFC 9112, 6.1 and 6.3)."""
    names = {name for name, _ in head.headers}
    if b"transfer-encoding" not in names:
        return False
    return b"content-length" in names or head.http_version < b"1.1"


def _gathered(parts: Iterable[bytes | Span]) -> Iterator[bytes | Span]:
    """The parts, those of a few bytes together: each costs a call of the system.

    Never all of them: a client that reads slowly would have a copy of its own.
    """
    few: list[bytes] = []
    size = 0
    for part in parts:
        if isinstance(part, bytes) and size + len(part) <= _ONE_PIECE:
            few.append(part)
            size += len(part)
            continue
        if few:
            yield b"".join(few)
        few, size = [], 0
        if isinstance(part, bytes) and len(part) <= _ONE_PIECE:
            few, size = [part], len(part)
        else:
            yield part
    if few:
        yield b"".join(few)


class _Placeholder:
    """Stands for bytes that h11 counts and never sees."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@lru_cache(maxsize=4)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()
