"""The image server as a part of the daemon: what it listens on, and its upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored import lanes
from imgstored.errors import ImgstoreError
from imgstored.httpd.address import listening
from imgstored.httpd.server import HttpServer

if TYPE_CHECKING:
    import ssl

    from imgproto.documents import ServerStateDocument

    from imgstored.httpd.address import TcpAddress
    from imgstored.httpd.message import HttpLimits
    from imgstored.library.library import Library
    from imgstored.serve.application import Application

log = structlog.get_logger(__name__)

#: Seconds between two looks for files without a digest, and for what can go.
_UPKEEP: Final = 60.0


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
    ) -> None:
        """`rate` is in bytes a second, 0 without a bound; `context` is of TLS, None without."""
        self._address = address
        self._library = library
        self._secure = context is not None
        self._server = HttpServer(application, limits, rate=rate, context=context)

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
        bound = listening(self._address, key="serve.listen")
        # Whoever is out there takes nothing that changes on this host wait for.
        with bound, lanes.bound("strangers"):
            log.info("serving images", listen=str(self._address), tls=self._secure)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upkeep)
                await nursery.start(self._server.serve, [bound])
                task_status.started()

    async def _upkeep(self) -> None:
        limiter = trio.CapacityLimiter(1)

        def keep_up() -> None:
            self._library.sweep()
            self._library.digest_missing(trio.from_thread.check_cancelled)

        while True:
            try:
                await trio.to_thread.run_sync(keep_up, limiter=limiter)
            except (OSError, ImgstoreError) as error:
                log.error("the library's upkeep failed", error=str(error))
            await trio.sleep(_UPKEEP)
