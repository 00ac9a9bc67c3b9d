"""How the daemon is: everything that a look at it should show, without asking anybody far away."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproto.documents import (
        ErrorDocument,
        JobDocument,
        SourceStateDocument,
        StatusDocument,
        WarningDocument,
    )

    from imgstored.care.history import History
    from imgstored.care.pool_states import PoolStates
    from imgstored.sources.sourcebook import SourceBook

#: Failures of the past that are told.
FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Daemon:
    """What stays as it is. `config` is the configuration's file, None where there is none."""

    version: str
    pid: int
    config: str | None
    view: Callable[[], str]  #: its kind, which is known only once it runs
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)


class Status:
    """Answers `status`. Used from trio's thread."""

    def __init__(
        self,
        daemon: Daemon,
        pools: PoolStates,
        sources: SourceBook,
        history: History,
        *,
        jobs: Callable[[], list[JobDocument]],
        clients: Callable[[], int],
        warnings: Callable[[], list[WarningDocument]],
    ) -> None:
        self._daemon = daemon
        self._pools = pools
        self._sources = sources
        self._history = history
        self._jobs = jobs
        self._clients = clients
        self._warnings = warnings

    async def status(self) -> StatusDocument:
        """The protocol's *status*."""
        daemon = self._daemon
        pools = await self._pools.all()
        problems: list[ErrorDocument] = []
        sources: list[SourceStateDocument] = []
        try:
            sources = await self._sources.standings()
        except ConfigError as error:  # imgadm's file; all the rest is to be seen all the same
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
            "clients": self._clients(),
            "images": sum(pool["images"] for pool in pools),
            "pools": pools,
            "sources": sources,
            "imports": imports,
            "waiting": sum(job["phase"] == "waiting" for job in imports),
            "failures": failures,
            "warnings": self._warnings(),
            "problems": problems,
        }
