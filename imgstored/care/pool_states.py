"""How the pools are: asked with little patience, and not more often than anybody can look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from imgstored.errors import ImgstoreError, PoolError
from imgstored.pools.patience import answer
from imgstored.pools.zfs.health import health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imgproto.documents import PoolStateDocument

    from imgstored.catalog.catalog import Catalog
    from imgstored.pools.base import Pool, Space

#: Seconds for a pool's answer: somebody looks at a screen.
PATIENCE: Final = 2.0
#: Seconds for which an answer does, however many ask.
_FRESH: Final = 0.5


class PoolStates:
    """All pools' room. Used from trio's thread."""

    def __init__(
        self,
        catalog: Catalog,
        kinds: Mapping[str, str],
        patience: float = PATIENCE,
        health: Callable[[str], str | None] = health,
    ) -> None:
        """`kinds` says of which type each pool is, `health` how the system says that a ZFS pool is."""
        self._catalog = catalog
        self._health = health
        self._probes = {
            name: _Probe(pool, kinds.get(name, "-"), patience) for name, pool in catalog.pools.items()
        }

    async def all(self) -> list[PoolStateDocument]:
        """The protocol's *status*' pools, in order; one that does not answer has an `error`."""
        async with trio.open_nursery() as nursery:
            for probe in self._probes.values():
                nursery.start_soon(probe.look)
        zfs = [name for name, probe in self._probes.items() if probe.kind == "zfs"]
        found = await trio.to_thread.run_sync(lambda: {name: self._health(name) for name in zfs})
        return [
            probe.as_wire(health=found.get(name), images=len(self._catalog.of_pool(name)))
            for name, probe in self._probes.items()
        ]


class _Probe:
    """One pool. What asks it may hang in the kernel: there is one question at a time."""

    def __init__(self, pool: Pool, kind: str, patience: float) -> None:
        self._pool = pool
        self.kind = kind
        self._patience = patience
        self._thread = trio.CapacityLimiter(1)
        self._looking = trio.Lock()
        self._looked_at = float("-inf")
        self._space: Space | None = None
        self._error: ImgstoreError | None = None

    async def look(self) -> None:
        """Asks the pool, unless it was asked right now, or has not answered the last time yet."""
        async with self._looking:
            if trio.current_time() - self._looked_at < _FRESH or not self._thread.available_tokens:
                return
            # Whoever leaves in the middle of it leaves this behind, until the next one asks.
            self._error = self._error or PoolError(f'pool "{self._pool.name}" has not answered yet')
            try:
                self._space = await answer(
                    self._pool.name, self._pool.space, threads=self._thread, seconds=self._patience
                )
                self._error = None
            except ImgstoreError as error:
                self._space, self._error = None, error
            self._looked_at = trio.current_time()

    def as_wire(self, *, health: str | None, images: int) -> PoolStateDocument:
        """What is known of it. Sizes in bytes."""
        space, error = self._space, self._error
        return {
            "name": self._pool.name,
            "type": self.kind,
            "state": "ok" if error is None else "failed" if self._thread.available_tokens else "no answer",
            "total": None if space is None else space.total,
            "available": None if space is None else space.available,
            "error": None if error is None else error.as_wire(),
            "health": health,
            "images": images,
        }
