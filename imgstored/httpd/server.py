"""Accepts connections, and has each request served in a thread. All that clients may take is bounded."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import structlog
import trio
import trio.lowlevel

from imgstored.errors import ConfigError
from imgstored.host import descriptors, shortage
from imgstored.httpd.address import counted_as
from imgstored.httpd.connection import Connection
from imgstored.httpd.message import text
from imgstored.httpd.pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from imgstored.httpd.connection import Application
    from imgstored.httpd.message import HttpLimits, Request, Response

log = structlog.get_logger(__name__)

#: `accept` fails without descriptors or memory, for a while.
_PAUSE: Final = 0.5
#: Seconds between two looks for a connection that gives way.
_LOOK: Final = 0.05
#: Seconds that a thread waits for the next request of its client, while others are free: handing a connection
#: to a thread and back takes longer than most answers.
_STAY: Final = 0.05
#: Threads at work beyond which none of them waits so. They share one processor of the interpreter with trio's
#: thread, which takes its turn among them.
_FEW: Final = 16
#: Bytes that wait in the kernel beside what it may send at once. With more, acknowledgements send them, and
#: so on one machine the client's processor does all the work; and a client that is slow holds memory. With
#: fewer, a fast network would wait for a thread.
_UNSENT: Final = 256 << 10
_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
#: Requests that a thread answers to one client before the others have their turn.
_IN_A_ROW: Final = 32

#: Bytes of a PEM file that are looked at.
_MAX_PEM: Final = 1 << 20
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_CERTIFICATE_HINT: Final = "name a PEM file of the certificate, intermediate ones, and the key, or a key_file"
_KEY_HINT: Final = "name a PEM file with the private key of the certificate in cert_file"
_LOCKED_HINT: Final = "`openssl pkey -in FILE -out NEW` writes the key without it; the daemon knows none"

_BUSY: Final = (
    f"HTTP/1.1 {HTTPStatus.SERVICE_UNAVAILABLE.value} {HTTPStatus.SERVICE_UNAVAILABLE.phrase}\r\n"
    "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
).encode()


class HttpServer:
    """Serves one application on some sockets."""

    def __init__(
        self,
        application: Application,
        limits: HttpLimits,
        *,
        rate: int = 0,
        context: ssl.SSLContext | None = None,
        refusal: Callable[[int, str], Response] = text,
    ) -> None:
        """`rate` bounds bytes a second of all answers, 0: nothing does. `context` is of TLS, None without.

        The application is called in threads, several at a time. `refusal` makes an answer of a status and a
        message, to what never gets to the application, or fails in it.
        """
        self._application = application
        self._refusal = refusal
        self._limits = limits
        self._pace = Pace(rate)
        self._context = context
        self._by_client: Counter[str] = Counter()
        self._open: dict[Connection, trio.CancelScope] = {}
        self._ended = trio.Event()  # a request, or a connection
        self._sent_before = self._requests_before = 0  # of connections that have ended
        self.refused = 0  #: connections that were turned away
        self._taken = 0  # places of connections
        self._accepting: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._threads = trio.CapacityLimiter(limits.handlers)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(self._by_client.values())

    @property
    def requests(self) -> int:
        """Requests since the start, those that wait for a thread, too."""
        return self._requests_before + sum(connection.requests for connection in self._open)

    @property
    def sent(self) -> int:
        """Bytes of answers, since the start."""
        return self._sent_before + sum(connection.sent for connection in self._open)

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves clients of the listening sockets until it is cancelled. The caller closes the sockets."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.accept_from(sockets)
            task_status.started()
            await trio.sleep_forever()

    def accept_from(self, sockets: Sequence[socket.socket]) -> None:
        """Accepts connections from these sockets in place of those before. Who is connected stays."""
        assert self._nursery is not None
        if self._accepting is not None:
            self._accepting.cancel()
        self._accepting = scope = trio.CancelScope()
        for each in sockets:
            each.setblocking(False)
        self._nursery.start_soon(self._accept_all, sockets, scope, self._nursery)

    def reconfigure(
        self, application: Application, limits: HttpLimits, *, rate: int, context: ssl.SSLContext | None
    ) -> None:
        """Uses these from now on, as the constructor has them; TLS for new connections."""
        self._application, self._limits, self._context = application, limits, context
        self._pace.set_rate(rate)
        self._threads.total_tokens = limits.handlers
        self._wake()

    async def _accept_all(
        self, sockets: Sequence[socket.socket], scope: trio.CancelScope, serving: trio.Nursery
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for each in sockets:
                    nursery.start_soon(self._accept, trio.socket.from_stdlib_socket(each), serving)

    def _answer(self, request: Request) -> Response:
        """By the application as it is now: who is connected keeps no rights that were taken away."""
        return self._application(request)

    def _has_place(self) -> bool:
        return self._taken < self._limits.connections

    async def _accept(self, listening: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listening)
            # Others wait in the kernel.
            await self._make_way(self._has_place)
            while not self._has_place():
                await self._ended.wait()
            self._taken += 1
            try:
                connected, address = await listening.accept()
            except OSError as error:
                self._leave()
                log.warning("no HTTP connection can be accepted for now", error=shortage.why(error))
                await trio.sleep(_PAUSE)
                continue
            except BaseException:
                self._leave()
                raise
            client = address[0] if isinstance(address, tuple) else "unix"
            with suppress(OSError):  # the client is gone already, or it is a Unix socket
                # The end of an answer does not wait until the client has acknowledged what came before.
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if _NOTSENT_LOWAT is not None:
                    connected.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _UNSENT)
            # The last ones are for what changes on this host.
            allowed = not descriptors.is_reserved(connected.fileno())
            nursery.start_soon(self._converse, connected, client, allowed)

    async def _converse(self, connected: trio.socket.SocketType, client: str, allowed: bool) -> None:
        """Has a client's requests answered until it leaves."""
        counts_as = counted_as(client)
        self._by_client[counts_as] += 1
        try:
            if not allowed or self._by_client[counts_as] > self._limits.client_connections:
                self.refused += 1
                await _refuse(connected)
                return
            # A socket that trio does not know any more: threads use it.
            plain = _detached(connected)
            connection = Connection(
                plain,
                client,
                counts_as,
                self._answer,
                self._limits,
                self._pace,
                self._context,
                self._refusal,
            )
            try:
                async with trio.open_nursery() as nursery:
                    self._open[connection] = nursery.cancel_scope
                    nursery.start_soon(_abort_with_us, connection)
                    while await self._is_asked(connection) and await self._answered(connection):
                        connection.waits_since = time.monotonic()
                    nursery.cancel_scope.cancel()
            finally:
                if self._open.pop(connection, None) is not None:
                    self._sent_before += connection.sent
                    self._requests_before += connection.requests
                connection.close()
        except Exception:  # one client's connection must not end the daemon
            log.exception("a connection failed by a mistake", client=client)
        finally:
            connected.close()
            self._leave()
            self._by_client[counts_as] -= 1
            if not self._by_client[counts_as]:
                del self._by_client[counts_as]

    def _leave(self) -> None:
        self._taken -= 1
        self._wake()

    def _wake(self) -> None:
        self._ended.set()
        self._ended = trio.Event()

    async def _make_way(self, free: Callable[[], bool], *, until_free: bool = False) -> None:
        """Ends a connection that keeps the server waiting, unless something is free; several if need be."""
        while not free():
            if self._one_gives_way() and not until_free:
                return
            with trio.move_on_after(_LOOK):
                await self._ended.wait()

    @asynccontextmanager
    async def _way_made(self, begun: Callable[[], bool]) -> AsyncIterator[None]:
        """Ends connections that keep the server waiting for as long as the block waits for a thread."""
        if self._limits.grace is None or self._threads.available_tokens:
            yield
            return

        async def make_way() -> None:
            await self._make_way(begun, until_free=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_way)
            yield
            nursery.cancel_scope.cancel()

    def _one_gives_way(self) -> bool:
        """Ends the connection that keeps the server waiting longest; whether there is one that may be ended.

        Without a grace that is one that waits for its next request, which costs its client nothing.
        """
        grace, now = self._limits.grace, time.monotonic()
        waiting = [
            (connection.waits_since, scope)
            for connection, scope in self._open.items()
            if connection.waits_since is not None
            and (connection.idle if grace is None else now - connection.waits_since > grace)
        ]
        if not waiting:
            return False
        min(waiting, key=itemgetter(0))[1].cancel()
        return True

    async def _is_asked(self, connection: Connection) -> bool:
        """Waits for the next request; whether one comes."""
        if connection.buffered:
            return True
        connection.idle = True
        with trio.move_on_after(self._limits.idle_seconds):
            await trio.lowlevel.wait_readable(connection.descriptor)
            connection.idle = False
            return True
        return False

    async def _answered(self, connection: Connection) -> bool:
        """True if another request may follow. When it is cancelled, the thread has come back on return."""
        again = begun = False
        connection.waits_since = None  # while it waits for a thread
        connection.requests += 1

        def answer() -> bool:
            nonlocal begun
            begun, connection.waits_since = True, time.monotonic()
            last = connection.requests + _IN_A_ROW - 1
            while connection.serve_one():
                busy = self._threads.borrowed_tokens
                if busy > _FEW or busy >= self._threads.total_tokens or connection.requests == last:
                    return True
                if not connection.is_asked_again(_STAY):
                    return True
                connection.requests += 1
            return False

        async with self._way_made(lambda: begun):
            again = await trio.to_thread.run_sync(answer, limiter=self._threads)
        self._wake()
        return again


async def _abort_with_us(connection: Connection) -> None:
    """Has the thread that uses the connection come back when this is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        connection.abort()


async def _refuse(connected: trio.socket.SocketType) -> None:
    with trio.move_on_after(1):
        with suppress(OSError):  # the client is gone
            await connected.send(_BUSY)


def _detached(connected: trio.socket.SocketType) -> socket.socket:
    return socket.socket(connected.family, connected.type, connected.proto, fileno=connected.detach())


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """The context of a TLS server. Raises `ConfigError` for files that cannot be used; never asks anybody."""
    texts = {"cert_file": _text_of("cert_file", certificate)}
    name, path = ("cert_file", certificate) if key is None else ("key_file", key)
    texts[name] = _text_of(name, path)
    if _CERTIFICATE not in texts["cert_file"]:
        raise _unusable("cert_file", certificate, "it has no certificate in PEM", hint=_CERTIFICATE_HINT)
    if not _KEY.search(texts[name]):
        raise _unusable(name, path, "it has no private key in PEM", hint=_KEY_HINT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    locked = False

    def no_password() -> bytes:
        # Otherwise OpenSSL asks at the terminal, and the daemon waits.
        nonlocal locked
        locked = True
        return b""

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        # Of these an `errno` is a number of OpenSSL's, and says nothing to who looks for those of the system.
        if locked:
            raise _unusable(name, path, "its key has a password", hint=_LOCKED_HINT) from None
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"its key is not that of the certificate in {certificate}"
            raise _unusable(name, path, why, hint=_KEY_HINT) from None
        why = f"OpenSSL cannot read it ({error.reason or error})"
        raise _unusable("cert_file", certificate, why, hint=_CERTIFICATE_HINT) from None
    except OSError as error:
        raise _unusable("cert_file", certificate, error.strerror or str(error), hint=_KEY_HINT) from error
    return context


def _text_of(name: str, path: Path) -> bytes:
    """The contents of a file of the configuration. Raises `ConfigError`."""
    try:
        # Nobody waits for the other end of a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, _MAX_PEM)
        finally:
            os.close(fd)
    except OSError as error:
        hint = _CERTIFICATE_HINT if name == "cert_file" else _KEY_HINT
        raise _unusable(name, path, error.strerror or str(error), hint=hint) from error


def _unusable(name: str, path: Path, why: str, *, hint: str) -> ConfigError:
    return ConfigError(f"serve.{name}: {path} cannot be used: {why}", hint=hint)
