"""The endpoint of the metrics: answers `GET /metrics` on a port or a Unix socket, with bounded resources."""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
import trio
from prometheus_client.exposition import choose_encoder

from imgstored.http.secrets import KNOWN
from imgstored.httpd.address import UnixAddress, listening
from imgstored.httpd.message import HttpLimits, Request, Response, text
from imgstored.httpd.server import HttpServer
from imgstored.metrics.counts import Counts, WithoutCreated
from imgstored.metrics.state import State
from imgstored.rpc.listener import listen
from imgstored.rpc.peer import change_rights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.documents import JobDocument, LibraryStateDocument, ServerStateDocument

    from imgstored.events.stream import Action
    from imgstored.httpd.address import TcpAddress
    from imgstored.queries.status import PoolStates
    from imgstored.sources.source_set import SourceSet

log = structlog.get_logger(__name__)

#: A monitoring system or two, over loopback.
_LIMITS: Final = HttpLimits(
    connections=128,
    client_connections=128,
    head=8 << 10,
    head_seconds=5.0,
    idle_seconds=5.0,
    silence_seconds=5.0,
    handlers=8,
    grace=0.25,
)


class Exposition:
    """The application. For threads; the daemon's state is read in trio's."""

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

    def __call__(self, request: Request) -> Response:
        """Answers one request."""
        if request.path not in ("/metrics", "/healthz"):
            return text(HTTPStatus.NOT_FOUND, "there is only /metrics, and /healthz")
        if request.method not in ("GET", "HEAD"):
            allow = ("Allow", "GET, HEAD")
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered", allow)
        if request.path == "/healthz":
            return text(HTTPStatus.OK, "ok")
        kind, body = trio.from_thread.run(self._metrics, request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, [("Content-Type", kind)], [body])

    async def _metrics(self, accepted: str) -> tuple[str, bytes]:
        """The content type and the text, in the newest form that the client knows."""
        try:
            encode, kind = choose_encoder(accepted)
        except (TypeError, ValueError):
            # It compares the parts of a version, which may be words, with numbers.
            encode, kind = choose_encoder("")
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
            named = listen(address.path, mode=mode, group_gid=group_gid, key="metrics.listen")
            stack.callback(named.close)
            bound = named.socket
        else:
            bound = stack.enter_context(listening(address, key="metrics.listen"))
        log.info("metrics", listen=str(address))
        await HttpServer(exposition, _LIMITS).serve([bound], task_status=task_status)


class Metrics:
    """Counts from the beginning; is asked once `show` has said of what, and `serve` runs."""

    def __init__(self, address: TcpAddress | UnixAddress, *, mode: int, group: str | None) -> None:
        """As `open_metrics`."""
        self.counts = Counts()
        self._address = address
        self._mode = mode
        self._group_gid = change_rights(group).group_gid
        self._exposition: Exposition | None = None

    def show(
        self,
        pools: PoolStates,
        sources: SourceSet,
        *,
        jobs: Callable[[], Sequence[JobDocument]],
        fetched: Callable[[], Mapping[Action, Mapping[str, int]]],
        clients: Callable[[], int],
        view: Callable[[], str],
        library: Callable[[], LibraryStateDocument | None] = lambda: None,
        server: Callable[[], ServerStateDocument | None] = lambda: None,
    ) -> None:
        """Sets what to read the daemon's state from; `fetched` gives bytes by source. Called once."""
        state = State(pools, sources, jobs=jobs, clients=clients, view=view, library=library, server=server)
        self._exposition = Exposition(self.counts, state, fetched)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens, and answers until it is cancelled. Raises `ConfigError` where it cannot listen."""
        assert self._exposition is not None
        await serve(
            self._address,
            self._exposition,
            mode=self._mode,
            group_gid=self._group_gid,
            task_status=task_status,
        )
