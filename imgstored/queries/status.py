"""The status of the daemon and of its pools, without a request to any server.

Questions to pools have a short timeout, and an answer serves all requests of the next half second.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

import trio
from msgspec import Struct, field

from imgstored import lanes
from imgstored.errors import ConfigError, ImgstoreError, PoolError
from imgstored.pools.timeout import answer
from imgstored.pools.zfs.system import health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.documents import (
        JobDocument,
        LibraryStateDocument,
        PoolStateDocument,
        ServerStateDocument,
        SourceStateDocument,
        StatusDocument,
        UnfinishedDocument,
        WarningDocument,
    )

    from imgstored.catalog.catalog import Catalog
    from imgstored.pools.base import Pool, Space
    from imgstored.queries.history import History
    from imgstored.sources.source_set import SourceSet

#: Past failures in a status.
FAILURES: Final = 5

#: Seconds for a pool's answer: a person looks at a screen.
TIMEOUT: Final = 2.0
#: Seconds for which an answer serves all requests.
_FRESH: Final = 0.5


class Daemon(Struct, frozen=True):
    """The facts that do not change. `config` is the configuration file, None if there is none."""

    version: str
    pid: int
    config: str | None
    view: Callable[[], str]  #: the kind of the view, which is known only once it runs
    view_path: str  #: the view's folder
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)


class Status:
    """Answers `status`. For trio's thread."""

    def __init__(
        self,
        daemon: Daemon,
        pools: PoolStates,
        sources: SourceSet,
        history: History,
        *,
        jobs: Callable[[], list[JobDocument]],
        clients: Callable[[], int],
        warnings: Callable[[], list[WarningDocument]],
        faults: Callable[[], list[ImgstoreError]] = list,
        library: Callable[[], LibraryStateDocument | None] = lambda: None,
        server: Callable[[], ServerStateDocument | None] = lambda: None,
    ) -> None:
        """`faults` returns the files of its own that the daemon cannot use. It blocks briefly."""
        self._daemon = daemon
        self._pools = pools
        self._sources = sources
        self._history = history
        self._jobs = jobs
        self._clients = clients
        self._warnings = warnings
        self._faults = faults
        self._library = library
        self._server = server

    async def status(self) -> StatusDocument:
        """The protocol's *status*."""
        daemon = self._daemon
        pools = await self._pools.all()
        problems = [fault.as_wire() for fault in await lanes.in_thread(self._faults)]
        sources: list[SourceStateDocument] = []
        try:
            sources = await self._sources.health()
        except ConfigError as error:  # imgadm's file is wrong; the rest of the status does not depend on it
            problems.append(error.as_wire())
        failures = await self._history.failures(FAILURES)
        imports = self._jobs()
        return {
            "version": daemon.version,
            "pid": daemon.pid,
            "started_at": daemon.started_at,
            "uptime": time.monotonic() - daemon.began,
            "config": daemon.config,
            "view": daemon.view(),
            "view_path": None if daemon.view() == "off" else daemon.view_path,
            "clients": self._clients(),
            "images": sum(pool["images"] for pool in pools),
            "pools": pools,
            "sources": sources,
            "imports": imports,
            "waiting": sum(job["phase"] == "waiting" for job in imports),
            "failures": failures,
            "warnings": self._warnings(),
            "problems": problems,
            "library": self._library(),
            "server": self._server(),
        }


# -- the pools -----------------------------------------------------------------------------------------------


class PoolStates:
    """The state of all pools. For trio's thread."""

    def __init__(
        self,
        catalog: Catalog,
        kinds: Mapping[str, str],
        timeout: float = TIMEOUT,
        health: Callable[[str], str | None] = health,
    ) -> None:
        """`kinds` has the type of each pool; `health` returns the system's word for a ZFS pool's health."""
        self._catalog = catalog
        self._health = health
        self._probes = {
            name: _Probe(pool, kinds.get(name, "-"), timeout) for name, pool in catalog.pools.items()
        }

    async def all(self) -> list[PoolStateDocument]:
        """The pools of the protocol's *status*, in order; one that does not answer has an `error`."""
        async with trio.open_nursery() as nursery:
            for probe in self._probes.values():
                nursery.start_soon(probe.look)
        zfs = [name for name, probe in self._probes.items() if probe.kind == "zfs"]
        found = await lanes.in_thread(lambda: {name: self._health(name) for name in zfs})
        images = {name: self._catalog.of_pool(name).values() for name in self._probes}
        return [
            probe.as_wire(
                health=found.get(name),
                images=len(images[name]),
                occupied=sum(image.image.used for image in images[name]),
                unlisted=self._catalog.unfinished(name),
            )
            for name, probe in self._probes.items()
        ]


class _Probe:
    """One pool. A question may hang in the kernel: there is one at a time."""

    def __init__(self, pool: Pool, kind: str, timeout: float) -> None:
        self._pool = pool
        self.kind = kind
        self._timeout = timeout
        self._thread = trio.CapacityLimiter(1)
        self._looking = trio.Lock()
        self._looked_at = float("-inf")
        self._space: Space | None = None
        self.incoming: list[tuple[str, int]] = []  #: as `Pool.incoming`, sorted
        self._error: ImgstoreError | None = None

    async def look(self) -> None:
        """Asks the pool, unless its last answer is fresh, or is still to come."""
        async with self._looking:
            if trio.current_time() - self._looked_at < _FRESH or not self._thread.available_tokens:
                return
            # If the caller is cancelled meanwhile, this is the state until the next question.
            self._error = self._error or PoolError(f'pool "{self._pool.name}" has not answered yet')
            try:
                self._space, self.incoming = await answer(
                    self._pool.name, self._ask, threads=self._thread, seconds=self._timeout
                )
                self._error = None
            except ImgstoreError as error:
                self._space, self.incoming, self._error = None, [], error
            self._looked_at = trio.current_time()

    def _ask(self) -> tuple[Space, list[tuple[str, int]]]:
        return self._pool.space(), sorted(self._pool.incoming().items())

    def as_wire(
        self, *, health: str | None, images: int, occupied: int, unlisted: Sequence[str]
    ) -> PoolStateDocument:
        """The pool's last known state. Sizes in bytes.

        An embedded pool uses the space of its images: the rest of the disk is not the pool's. `unlisted` are
        the uuids of datasets with a snapshot @final but no manifest yet.
        """
        space, error = self._space, self._error
        return {
            "name": self._pool.name,
            "type": self.kind,
            "state": "ok" if error is None else "failed" if self._thread.available_tokens else "no answer",
            "total": None if space is None else space.total,
            "available": None if space is None else space.available,
            "used": None if space is None else _used(space) if self.kind == "zfs" else occupied,
            "error": None if error is None else error.as_wire(),
            "health": health,
            "images": images,
            "unfinished": [
                *(_unfinished(uuid, "receiving", used) for uuid, used in self.incoming),
                *(_unfinished(uuid, "no manifest", None) for uuid in unlisted),
            ],
        }


def _used(space: Space) -> int:
    return max(0, space.total - space.available)


def _unfinished(uuid: str, why: Literal["receiving", "no manifest"], used: int | None) -> UnfinishedDocument:
    return {"uuid": uuid, "why": why, "used": used}
