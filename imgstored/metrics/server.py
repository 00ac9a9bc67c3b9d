"""Answers `GET /metrics`, on a port or a Unix socket, with bounded resources for each client."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing, contextmanager
from operator import itemgetter
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
from imgstored.http.secrets import KNOWN
from imgstored.metrics.address import TcpAddress, UnixAddress
from imgstored.metrics.counts import Counts, WithoutCreated
from imgstored.rpc.listener import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from imgstored.events.stream import Action
    from imgstored.metrics.state import State

log = structlog.get_logger(__name__)

#: Connections at a time; others wait in the kernel.
_CONNECTIONS: Final = 16
#: Seconds after which a connection that keeps the server waiting gives its place to another one.
_GRACE: Final = 0.25
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
            text = encode(self._registry)
        return kind, KNOWN.hidden(text.decode()).encode() if KNOWN.may_be_in(text) else text


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


class _Conversation:
    """A connection's place, and since when the server waits for its client."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self.given_up = trio.Event()
        self.since: float | None = trio.current_time()  #: None while the client waits for the server

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """The ASGI application of this connection."""

        async def sent(message: Message) -> None:
            self.since = trio.current_time()
            await send(message)

        self.since = None
        try:
            await self._exposition(scope, receive, sent)
        finally:
            self.since = trio.current_time()

    async def limit(self, connected: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        """Closes the connection and cancels `scope` once it is given up, lasts too long, or is cancelled.

        One is not enough: hypercorn shields what it sends, also to a client that does not read.
        """
        try:
            with trio.move_on_after(_CONVERSATION):
                await self.given_up.wait()
        finally:
            connected.close()
            scope.cancel()


class _Places:
    """The places for connections. If all are taken, who keeps the server waiting longest gives way."""

    def __init__(self) -> None:
        self._taken: list[_Conversation] = []
        self._left = trio.Event()  # somebody has left since it was made

    async def wait_for_room(self) -> None:
        """Waits until there is a place."""
        while len(self._taken) >= _CONNECTIONS:
            now = trio.current_time()
            since, idle = min(((each.since or now, each) for each in self._taken), key=itemgetter(0))
            if now >= since + _GRACE:
                idle.given_up.set()
            with trio.move_on_at(max(now, since) + _GRACE):
                await self._left.wait()

    @contextmanager
    def taken(self, exposition: Exposition) -> Iterator[_Conversation]:
        """A place, for as long as the block runs."""
        conversation = _Conversation(exposition)
        self._taken.append(conversation)
        try:
            yield conversation
        finally:
            self._taken.remove(conversation)
            self._left.set()
            self._left = trio.Event()


async def _accept(listening: trio.socket.SocketType, exposition: Exposition, nursery: trio.Nursery) -> None:
    config = _settings()
    context = WorkerContext(None)
    places = _Places()

    async def converse(connected: trio.socket.SocketType, task_status: trio.TaskStatus[None]) -> None:
        with places.taken(exposition) as conversation:
            task_status.started()
            application = wrap_app(conversation, 0, "asgi")  # type: ignore[arg-type]
            stream: Any = trio.SocketStream(connected)
            async with trio.open_nursery() as limiting:
                limiting.start_soon(conversation.limit, connected, limiting.cancel_scope)
                try:
                    await TCPServer(application, config, context, ConnectionState({}), stream).run()
                except Exception:  # one client's connection must not end the daemon
                    log.exception("a question for metrics failed")
                limiting.cancel_scope.cancel()

    while True:
        # Only then is there somebody who needs a place.
        await trio.lowlevel.wait_readable(listening.fileno())
        await places.wait_for_room()
        try:
            connected, _ = await listening.accept()
        except OSError as error:
            why = error.strerror or str(error)
            log.warning("no connection for metrics can be accepted for now", error=why)
            await trio.sleep(_PAUSE)
            continue
        await nursery.start(converse, connected)


def _settings() -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = _MAX_HEAD
    config.keep_alive_timeout = _SILENCE
    config.read_timeout = round(_SILENCE)
    return config
