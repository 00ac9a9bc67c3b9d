"""Connections that another thread can end at any moment. Blocking; used from worker threads."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from imgstored.http.location import Origin
    from imgstored.http.proxy import Proxy

#: As `socket.getaddrinfo(host, port, type=SOCK_STREAM)`.
Resolve = Callable[[str, int], Sequence[tuple[Any, ...]]]

#: While a connection is being made, how often it is looked whether it is still wanted. In seconds.
_POLL_SECONDS = 0.2


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


def connect(
    abortable: AbortableSocket, host: str, port: int, *, resolve: Resolve, seconds: float
) -> socket.socket:
    """A TCP connection to the first address that answers within `seconds` (all addresses together).

    Raises `OSError`: the last address's error, `TimeoutError`, or `AbortedError`.
    """
    deadline = time.monotonic() + seconds
    addresses = resolve(host, port)
    failure: OSError = OSError("the host has no address")
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        abortable.check()
        left = deadline - time.monotonic()
        share = left / (len(addresses) - place)
        sock = socket.socket(family, kind, protocol)
        try:
            abortable.hold(sock)
            _connect(abortable, sock, address, time.monotonic() + share)
        except OSError as error:
            sock.close()
            failure = error
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    abortable.check()
    raise failure


def _connect(abortable: AbortableSocket, sock: socket.socket, address: Any, deadline: float) -> None:
    sock.setblocking(False)
    poll = select.poll()
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    poll.register(sock, select.POLLOUT)
    while not poll.poll(int(_POLL_SECONDS * 1000)):
        abortable.check()
        if time.monotonic() > deadline:
            raise TimeoutError("the connection timed out")
    abortable.check()
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, "the connection failed")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class AbortableConnection(http.client.HTTPConnection):
    """http.client over an `AbortableSocket`: http or https, direct or through a proxy."""

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
    ) -> None:
        super().__init__(origin.host, origin.port, timeout=silence_seconds)
        self._abortable = abortable
        self._origin = origin
        self._proxy = proxy
        self._context = context
        self._resolve = resolve
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds

    def connect(self) -> None:
        """Called by http.client for the first request."""
        host, port = (self._proxy or self._origin).host, (self._proxy or self._origin).port
        sock = connect(self._abortable, host, port, resolve=self._resolve, seconds=self._connect_seconds)
        try:
            sock.settimeout(self._silence_seconds)
            if self._proxy is not None and self._origin.tls:
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
        response = http.client.HTTPResponse(sock, method="CONNECT")
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
