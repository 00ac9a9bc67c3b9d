"""Connections that another thread can end at any moment. Blocking; used from worker threads."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from imgstored.http.addresses import Nearness, TooNearError, nearness, nearness_of_host
from imgstored.http.socks import socks_tunnel

if TYPE_CHECKING:
    import io
    import ssl

    from imgstored.http.location import Origin
    from imgstored.http.proxy import Proxy

#: As `socket.getaddrinfo(host, port, type=SOCK_STREAM)`.
Resolve = Callable[[str, int], Sequence[tuple[Any, ...]]]

#: While a connection is being made, how often it is looked whether it is still wanted. In seconds.
_POLL_SECONDS = 0.2

#: RFC 8305, 8: the Connection Attempt Delay that it recommends. In seconds.
_STAGGER_SECONDS = 0.25

#: Hosts whose address is remembered.
_MOST_REMEMBERED = 256


class AbortedError(OSError):
    """The connection was ended by `AbortableSocket.abort`."""


def resolve_blocking(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """Asks the system's resolver, which nobody can interrupt."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class AbortableSocket:
    """A socket that another thread can end, now and for good.

    Everything but `abort` is called by one thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.aborted: str | None = None  #: why, once it is

    def abort(self, reason: str) -> None:
        """Ends what the other thread is waiting for, now and for ever. The first reason stands."""
        with self._lock:
            self.aborted = self.aborted or reason
            self._shut_down()

    def hold(self, sock: socket.socket) -> None:
        """Makes `sock` the one to be ended. Raises `AbortedError` if it is too late for that."""
        with self._lock:
            self._socket = sock
            if self.aborted is not None:
                self._shut_down()
        self.check()

    def release(self) -> None:
        """Forgets the socket."""
        with self._lock:
            self._socket = None

    def check(self) -> None:
        """Raises `AbortedError` after `abort`."""
        if self.aborted is not None:
            raise AbortedError(self.aborted)

    def _shut_down(self) -> None:
        if self._socket is not None:
            # Not SSLSocket's own method: that one drops its TLS state, which the other thread is using.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Answered:
    """Remembers each host's address that answered last, for all that share this. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[tuple[str, int], Any] = {}

    def remember(self, host: str, port: int, address: Any) -> None:
        """`address`, as getaddrinfo has it, has answered for `host`."""
        with self._lock:
            if len(self._addresses) >= _MOST_REMEMBERED:
                self._addresses.clear()
            self._addresses[host, port] = address

    def ordered(self, host: str, port: int, found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The addresses in the order in which to try them: that which answered, then families in turn."""
        with self._lock:
            known = self._addresses.get((host, port))
        families: dict[Any, list[tuple[Any, ...]]] = {}
        for entry in found:
            families.setdefault(entry[0], []).append(entry)
        turns = itertools.zip_longest(*families.values())
        mixed = [entry for turn in turns for entry in turn if entry is not None]
        return sorted(mixed, key=lambda entry: entry[4] != known)


def connect(
    abortable: AbortableSocket,
    host: str,
    port: int,
    *,
    resolve: Resolve,
    seconds: float,
    answered: Answered | None = None,
    limit: Nearness | None = None,
) -> socket.socket:
    """A TCP connection to the address that answers first, within `seconds` (all addresses together).

    As RFC 8305 has it: an address that has not answered after a quarter of a second does not keep the next
    one waiting. Addresses nearer than `limit` are not tried. Raises `TooNearError` if there are no others,
    else `OSError`: the last address's error, `TimeoutError`, or `AbortedError`.
    """
    deadline = time.monotonic() + seconds
    answered = answered or Answered()
    found = resolve(host, port)
    allowed = [entry for entry in found if limit is None or nearness(entry[4][0]) <= limit]
    if found and not allowed:
        raise TooNearError(host)
    race = _Race(answered.ordered(host, port, allowed))
    with race:
        while (won := race.step(deadline)) is None:
            abortable.check()
        sock, address = won
        abortable.hold(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answered.remember(host, port, address)
        return race.take(sock)


class _Race:
    """Attempts to connect, of which the first that succeeds counts. Closes all others at its end."""

    def __init__(self, addresses: list[tuple[Any, ...]]) -> None:
        self._waiting = addresses[::-1]
        self._running: dict[int, tuple[socket.socket, Any]] = {}
        self._poll = select.poll()
        self._due = 0.0  # when the next address has its turn
        self._failure = OSError("the host has no address")

    def __enter__(self) -> _Race:
        return self

    def __exit__(self, *_: object) -> None:
        for sock, _address in self._running.values():
            sock.close()

    def take(self, sock: socket.socket) -> socket.socket:
        """Leaves the socket open at the end."""
        del self._running[sock.fileno()]
        return sock

    def step(self, deadline: float) -> tuple[socket.socket, Any] | None:
        """Waits a little. The connection that was made, and its address; raises `OSError` if none will be."""
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError("the connection timed out")
        if self._waiting and (now >= self._due or not self._running):
            self._begin(*self._waiting.pop())
            self._due = now + _STAGGER_SECONDS
        if not self._running:
            if self._waiting:
                return None
            raise self._failure
        wait = min(_POLL_SECONDS, deadline - now)
        if self._waiting:
            wait = min(wait, self._due - now)
        for number, _ in self._poll.poll(max(0.0, wait) * 1000):
            sock, address = self._running[number]
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return sock, address
            self._lost(sock, OSError(code, "the connection failed"))
        return None

    def _begin(self, family: int, kind: int, protocol: int, _: str, address: Any) -> None:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a host without IPv6, for one
            self._failure = error
            return
        self._running[sock.fileno()] = sock, address
        try:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
            self._poll.register(sock, select.POLLOUT)
        except OSError as error:
            del self._running[sock.fileno()]
            sock.close()
            self._failure = error

    def _lost(self, sock: socket.socket, error: OSError) -> None:
        self._poll.unregister(sock)
        del self._running[sock.fileno()]
        sock.close()
        self._failure, self._due = error, 0.0


class _HeadLines:
    """The lines of a head. A connection that ends within it raises; http.client takes that for the end."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._first = True

    def readline(self, size: int = -1) -> bytes:
        line = self._stream.readline(size)
        if not line and not self._first:
            raise http.client.IncompleteRead(b"")
        self._first = False
        return line

    def close(self) -> None:
        self._stream.close()


class WholeResponse(http.client.HTTPResponse):
    """An answer whose head has come to its end."""

    def _read_next_chunk_size(self) -> int:
        """http.client takes all that `int` takes; after a negative size it reads more than was asked for."""
        size: int = cast("Any", super())._read_next_chunk_size()  # noqa: SLF001  (its own class's)
        if size < 0:
            raise ValueError("a negative size")
        return size

    def begin(self) -> None:
        """Reads the head. Raises `HTTPException`, also where the connection ends within it."""
        stream = self.fp
        lines = self.fp = cast("Any", _HeadLines(stream))
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = stream


class AbortableConnection(http.client.HTTPConnection):
    """http.client over an `AbortableSocket`: http or https, direct or through a proxy."""

    response_class = WholeResponse

    def __init__(
        self,
        abortable: AbortableSocket,
        origin: Origin,
        *,
        proxy: Proxy | None,
        context: ssl.SSLContext | None,
        resolve: Resolve,
        connect_seconds: float,
        silence_seconds: float,
        answered: Answered | None = None,
        limit: Nearness | None = None,
    ) -> None:
        """`limit` is as a `Location` has it. Through a proxy it counts for what the host says of itself."""
        super().__init__(origin.host, origin.port, timeout=silence_seconds)
        self._limit = limit
        self.near = Nearness.PUBLIC  #: of the server, once there is a connection
        self._abortable = abortable
        self._origin = origin
        self._proxy = proxy
        self._context = context
        self._resolve = resolve
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._answered = answered

    def connect(self) -> None:
        """Called by http.client for the first request."""
        host, port = (self._proxy or self._origin).host, (self._proxy or self._origin).port
        if self._proxy is not None:
            self.near = nearness_of_host(self._origin.host)
            if self._limit is not None and self.near > self._limit:
                raise TooNearError(self._origin.host)
        sock = connect(
            self._abortable,
            host,
            port,
            resolve=self._resolve,
            seconds=self._connect_seconds,
            answered=self._answered,
            limit=self._limit if self._proxy is None else None,
        )
        try:
            if self._proxy is None:
                self.near = nearness(sock.getpeername()[0])
            sock.settimeout(self._silence_seconds)
            if self._proxy is not None and self._proxy.socks:
                socks_tunnel(sock, self._proxy, self._origin)
            elif self._proxy is not None and self._origin.tls:
                self._open_tunnel(sock, self._proxy)
            self.sock = sock if self._context is None else self._secured(sock, self._context)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Closes the socket, if there is one; a later request opens another."""
        self._abortable.release()
        super().close()

    def _open_tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        """RFC 9110, 9.3.6."""
        host = f"[{self._origin.host}]" if ":" in self._origin.host else self._origin.host
        authority = f"{host}:{self._origin.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        sock.sendall("".join(line + "\r\n" for line in [*lines, ""]).encode("ascii"))
        response = WholeResponse(sock, method="CONNECT")
        try:
            response.begin()
            if not 200 <= response.status < 300:
                raise OSError(f"the proxy {proxy.url} refuses the connection (status {response.status})")
        finally:
            response.close()

    def _secured(self, sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        tls = context.wrap_socket(sock, server_hostname=self._origin.host, do_handshake_on_connect=False)
        try:
            self._abortable.hold(tls)
            tls.do_handshake()
        except BaseException:
            tls.close()
            raise
        return tls
