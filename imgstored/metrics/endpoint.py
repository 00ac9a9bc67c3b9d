"""Assembles the parts of the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from imgstored.metrics.counts import Counts
from imgstored.metrics.server import Exposition, serve
from imgstored.metrics.state import State
from imgstored.rpc.peer import access_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.documents import JobDocument, LibraryStateDocument, ServerStateDocument

    from imgstored.events.stream import Action
    from imgstored.httpd.address import TcpAddress, UnixAddress
    from imgstored.queries.status import PoolStates
    from imgstored.sources.source_set import SourceSet


class Metrics:
    """Counts from the beginning; is asked once `show` has said of what, and `serve` runs."""

    def __init__(self, address: TcpAddress | UnixAddress, *, mode: int, group: str | None) -> None:
        """As `open_metrics`."""
        self.counts = Counts()
        self._address = address
        self._mode = mode
        self._group_gid = access_for(group).group_gid
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
