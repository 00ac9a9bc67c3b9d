"""The image server as a part of the daemon: what it listens on, and its upkeep."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored import lanes
from imgstored.errors import ImgstoreError
from imgstored.httpd.address import listening
from imgstored.httpd.server import HttpServer
from imgstored.library.digests import Digests
from imgstored.serve.refusal import refused

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from imgproto.documents import ServerStateDocument

    from imgstored.httpd.address import TcpAddress
    from imgstored.httpd.message import HttpLimits
    from imgstored.library.library import Library
    from imgstored.serve.application import Application

log = structlog.get_logger(__name__)

#: Seconds between two looks for files without a digest or an index, and for what can go.
_UPKEEP: Final = 60.0
#: Seconds for which the upkeep rests after each block that it has read, at most: it has the interpreter to
#: itself meanwhile, and clients come first.
_REST: Final = 0.1


class ImageServer:
    """Serves the library over HTTP."""

    def __init__(
        self,
        address: TcpAddress,
        application: Application,
        library: Library,
        limits: HttpLimits,
        *,
        rate: int,
        context: ssl.SSLContext | None,
        index_of: Callable[[int, Callable[[], object]], bytes | None],
    ) -> None:
        """`rate` is in bytes a second, 0 without a bound; `context` is of TLS, None without.

        `index_of` makes the index of an open file, None if that cannot have one; it calls its second argument
        for each block that it reads.
        """
        self._address = address
        self._bound: socket.socket | None = None
        self._library = library
        self._index_of = index_of
        self._secure = context is not None
        self._server = HttpServer(application, limits, rate=rate, context=context, refusal=refused)

    def state(self) -> ServerStateDocument:
        """The protocol's *status* of it."""
        return {
            "listen": str(self._address),
            "tls": self._secure,
            "connections": self._server.connections,
            "requests": self._server.requests,
            "sent_bytes": self._server.sent,
            "refused": self._server.refused,
        }

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens, and serves until it is cancelled. Raises `ConfigError` where it cannot listen."""
        self._bound = listening(self._address, key="serve.listen")
        # Whoever is out there takes nothing that changes on this host wait for.
        try:
            with lanes.bound("strangers"):
                self._log_listening()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._upkeep)
                    await nursery.start(self._server.serve, [self._bound])
                    task_status.started()
        finally:
            self._bound.close()

    def reconfigure(
        self,
        address: TcpAddress,
        application: Application,
        limits: HttpLimits,
        *,
        rate: int,
        context: ssl.SSLContext | None,
    ) -> None:
        """Serves so from now on, as the constructor has it; who is connected gets what is under way.

        Raises `ConfigError` where it cannot listen; then all stays as it was.
        """
        if address != self._address and self._bound is not None:
            bound, before = listening(address, key="serve.listen"), self._bound
            with lanes.bound("strangers"):
                self._server.accept_from([bound])
            self._bound, self._address = bound, address
            before.close()
        self._secure = context is not None
        self._server.reconfigure(application, limits, rate=rate, context=context)
        self._log_listening()

    def _log_listening(self) -> None:
        log.info("serving images", listen=str(self._address), tls=self._secure)

    async def _upkeep(self) -> None:
        limiter = trio.CapacityLimiter(1)
        token = trio.lowlevel.current_trio_token()
        arrived = trio.Event()
        check = _Rests()
        digests = Digests(self._library)

        def tell() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(arrived.set, idempotent=True)

        def keep_up() -> None:
            self._library.sweep()
            digests.digest_missing(trio.from_thread.check_cancelled)
            digests.index_missing(lambda fd: self._index_of(fd, check))

        self._library.arrived = tell
        while True:
            arrived = trio.Event()
            try:
                await trio.to_thread.run_sync(keep_up, limiter=limiter)
            except (OSError, ImgstoreError) as error:
                log.error("the library's upkeep failed", error=str(error))
            with trio.move_on_after(_UPKEEP):
                await arrived.wait()


class _Rests:
    """For a thread whose work nobody waits for: it rests as long as it has worked, and can be cancelled."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self) -> None:
        trio.from_thread.check_cancelled()
        time.sleep(min(_REST, time.monotonic() - self._since))
        self._since = time.monotonic()
