"""Answers `GET /metrics`, on a port or a Unix socket, with bounded resources for each client."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from prometheus_client.exposition import choose_encoder

from imgstored.errors import ConfigError
from imgstored.metrics.address import TcpAddress, UnixAddress
from imgstored.metrics.counts import Counts, WithoutCreated
from imgstored.rpc.listener import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from imgstored.events.stream import Action
    from imgstored.metrics.state import State

log = structlog.get_logger(__name__)

#: Connections at a time; others wait in the kernel.
_CONNECTIONS: Final = 16
_BACKLOG: Final = 64
#: Seconds that a connection may last, for one request and its answer, and without a byte of the request.
_CONVERSATION: Final = 30.0
_SILENCE: Final = 5.0
#: Bytes of a request's head.
_MAX_HEAD: Final = 8 << 10
#: `accept` fails without descriptors or memory, for a while.
_PAUSE: Final = 0.5

Message = dict[str, Any]


class Exposition:
    """The ASGI application."""

    def __init__(
        self, counts: Counts, state: State, fetched: Callable[[], Mapping[Action, Mapping[str, int]]]
    ) -> None:
        """`fetched` gives the bytes that the imports under way have fetched, by source."""
        self._counts = counts
        self._fetched = fetched
        self._state = state
        self._one_at_a_time = trio.Lock()
        counts.registry.register(state)
        self._registry = WithoutCreated(counts.registry)

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers: list[tuple[bytes, bytes]] = []
        kind, body = "text/plain; charset=utf-8", b""
        if scope["path"] not in ("/metrics", "/healthz"):
            status, body = 404, b"there is only /metrics, and /healthz\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, b"only GET is answered\n"
            headers.append((b"allow", b"GET, HEAD"))
        elif scope["path"] == "/healthz":
            status, body = 200, b"ok\n"
        else:
            status, (kind, body) = 200, await self._metrics(scope)
        headers += [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if scope["http_version"] in ("1.0", "1.1"):
            # So that a connection that does nothing can be told from one that waits for its next request.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _metrics(self, scope: Mapping[str, Any]) -> tuple[str, bytes]:
        """The content type and the text, in the newest form that the client knows."""
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
        encode, kind = choose_encoder(accepted.decode("latin-1"))
        async with self._one_at_a_time:
            await self._state.look()
            self._counts.count_bytes(self._fetched())
            return kind, encode(self._registry)


async def serve(
    address: TcpAddress | UnixAddress,
    exposition: Exposition,
    *,
    mode: int,
    group_gid: int | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listens, and serves until it is cancelled. Started when clients can connect.

    `mode` and `group_gid` are of a Unix socket's name. Raises `ConfigError` where it cannot listen.
    """
    with ExitStack() as stack:
        if isinstance(address, UnixAddress):
            listening = listen(address.path, mode=mode, group_gid=group_gid, key="metrics.listen")
            stack.callback(listening.close)
            bound = listening.socket
        else:
            bound = stack.enter_context(closing(_bound(address)))
        bound.setblocking(False)
        task_status.started()
        log.info("metrics", listen=str(address))
        async with trio.open_nursery() as nursery:
            await _accept(trio.socket.from_stdlib_socket(bound), exposition, nursery)


def _bound(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"metrics.listen: cannot listen at {address}: {error.strerror or error}",
            hint="another program may listen there; choose another port",
        ) from error


async def _accept(listening: trio.socket.SocketType, exposition: Exposition, nursery: trio.Nursery) -> None:
    config = _settings()
    application = wrap_app(exposition, 0, "asgi")  # type: ignore[arg-type]
    context = WorkerContext(None)
    places = trio.Semaphore(_CONNECTIONS)

    async def converse(connected: trio.socket.SocketType) -> None:
        try:
            stream: Any = trio.SocketStream(connected)
            with trio.move_on_after(_CONVERSATION):
                await TCPServer(application, config, context, ConnectionState({}), stream).run()
        except Exception:  # one client's connection must not end the daemon
            log.exception("a question for metrics failed")
        finally:
            connected.close()
            places.release()

    while True:
        await places.acquire()
        try:
            connected, _ = await listening.accept()
        except OSError as error:
            places.release()
            why = error.strerror or str(error)
            log.warning("no connection for metrics can be accepted for now", error=why)
            await trio.sleep(_PAUSE)
            continue
        nursery.start_soon(converse, connected)


def _settings() -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = _MAX_HEAD
    config.keep_alive_timeout = _SILENCE
    config.read_timeout = round(_SILENCE)
    return config
