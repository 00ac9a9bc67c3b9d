"""Refreshes the catalog: imgadm and `zfs` install and delete in shared pools, too.

Requests that come at the same time share one look at a pool. A look that began before a request does not
serve it, because it would miss a change that was made right before the request.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored.catalog.catalog import show
from imgstored.errors import ImgstoreError, PoolError
from imgstored.pools.timeout import answer

if TYPE_CHECKING:
    from imgstored.catalog.catalog import Catalog, InstalledImage, View

log = structlog.get_logger(__name__)

#: Seconds between two looks without a request, for the view.
EVERY: Final = 10.0


class Refresh:
    """Brings the catalog and the view up to date. Never asks pools that are not shared."""

    def __init__(self, catalog: Catalog, view: View, *, every: float = EVERY) -> None:
        self._every = every
        self._pools = {
            name: _SharedPool(name, catalog, view) for name, pool in catalog.pools.items() if pool.shared
        }
        self._all = len(catalog.pools)

    async def run(self) -> None:
        """Looks every few seconds until cancelled. While a pool fails, its entries stay as they are."""
        async with trio.open_nursery() as nursery:
            for pool in self._pools.values():
                nursery.start_soon(self._follow, pool)

    async def pool(self, name: str) -> None:
        """Brings the entries of a pool up to date. Raises the pool's error."""
        pool = self._pools.get(name)
        error = None if pool is None else await pool.look()
        if error is not None:
            raise error

    async def all(self) -> None:
        """As `pool`, for all pools.

        A pool that does not answer must not hide the others' images: its own are listed as they were last
        known, and the log says so. Raises the first error only if no pool answers.
        """
        errors: list[ImgstoreError] = []

        async def look(pool: _SharedPool) -> None:
            error = await pool.look()
            if error is not None:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for pool in self._pools.values():
                nursery.start_soon(look, pool)
        if errors and len(errors) == self._all:
            raise errors[0]

    async def _follow(self, pool: _SharedPool) -> None:
        while True:
            await trio.sleep(self._every)
            await pool.look()


class _SharedPool:
    """Looks at one pool, one after the other."""

    def __init__(self, name: str, catalog: Catalog, view: View) -> None:
        self._name = name
        self._catalog = catalog
        self._view = view
        self._one_at_a_time = trio.Lock()
        # An abandoned look may hang in the kernel, and no other one follows it there.
        self._thread = trio.CapacityLimiter(1)
        self._begun = 0  # looks
        self._ended = 0  # the number of the last one that was not given up
        self._error: ImgstoreError | None = None

    async def look(self) -> ImgstoreError | None:
        """Looks at the pool, or waits for a look that began after now; returns its error."""
        wanted = self._begun + 1
        async with self._one_at_a_time:
            if self._ended < wanted:
                self._begun += 1
                before, self._error = self._error, await self._refresh()
                self._ended = self._begun
                self._report(before)
            return self._error

    async def _refresh(self) -> ImgstoreError | None:
        name, catalog = self._name, self._catalog
        with catalog.changes() as ours:
            look = partial(catalog.look, name, catalog.of_pool(name))
            try:
                found = await answer(name, look, threads=self._thread)
            except ImgstoreError as error:
                return error
            except Exception:
                log.exception("a pool could not be read", pool=name)
                return PoolError(f'pool "{name}" could not be read', hint="the daemon's log says more")
            changed = catalog.apply(name, found, but=ours)
        # Also if the request has gone: the catalog has the changes already.
        with trio.CancelScope(shield=True):
            for image in changed:
                await self._show(image)
        return None

    async def _show(self, image: InstalledImage) -> None:
        now = self._catalog.find(image.pool, image.uuid)
        # There is no await after the look-up, so the view gets changes in the catalog's order.
        if now is not None:
            await show(self._view, now)
            return
        log.info("an image no longer exists", pool=image.pool, uuid=image.uuid)
        try:
            await self._view.remove(image)
        except ImgstoreError as error:
            log.error("the view still shows an image", uuid=image.uuid, error=error.message)

    def _report(self, before: ImgstoreError | None) -> None:
        """Logs the error when it changes, and not at each look."""
        error, pool = self._error, self._name
        if error is not None and (before is None or before.message != error.message):
            log.error("a pool does not say what it has", pool=pool, error=error.message, hint=error.hint)
        elif error is None and before is not None:
            log.info("a pool says again what it has", pool=pool)
