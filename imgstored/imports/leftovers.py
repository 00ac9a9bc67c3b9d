"""Leftovers of imports: drops what an import's end does not keep, and sweeps up at a start. Blocks.

In a pool that other programs change, too, imgadm may be receiving a partial. So only the holder of the
image's lock drops it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from imgstored.errors import ImgstoreError, NoSpaceError, PoolError
from imgstored.host import shortage
from imgstored.host.clock import Ages
from imgstored.manifest.values import UUID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.imports.journal import Journal, UnfinishedImport
    from imgstored.imports.state import Kept

log = structlog.get_logger(__name__)

#: Names that `spool_name` makes.
_SPOOL_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9._-]*-{UUID.pattern}")

#: The endings of a delta's files; the rest of their names is that of the spool.
INDEX: Final = ".index"
PAYLOADS: Final = ".payloads"


def spool_name(pool: str, uuid: str) -> str:
    """An image's name in the spool folder and in the journal."""
    return f"{pool}-{uuid}"


class Leftovers:
    """The spools, the journal's rows and the pools' partials."""

    def __init__(self, catalog: Catalog, journal: Journal, spools: Path, locks: ImageLocks) -> None:
        self._catalog = catalog
        self._journal = journal
        self._spools = spools
        self._locks = locks
        self._ages = Ages()

    def drop(self, pool: str, uuid: str, kept: Kept, *, locked: bool) -> None:
        """Drops what an import leaves and its end does not keep. Raises `PoolError`, also `NoSpaceError`.

        If one thing cannot be dropped, all others are: an import that nobody wants does not go on after a
        restart because the pool kept its partial. `locked` says whether the caller has the image's lock.
        """
        steps: list[Callable[[], None]] = []
        if not kept.partial:
            steps.append(partial(self._abandon, pool, uuid, locked=locked))
        # Without the journal this is the import of a client's file: all others need the journal.
        if self._journal.fault is None:
            if not kept.download:
                name = spool_name(pool, uuid)
                # Untrusted ranges must go even if the file cannot be removed.
                steps += [self._journal.ranges(name).forget, partial(self._remove_spool, name)]
            if not kept.journal:
                steps.append(partial(self._journal.end, pool, uuid))
            elif not kept.wanted:
                steps.append(partial(self._journal.park, pool, uuid))
        failures: list[ImgstoreError] = []
        for step in steps:
            try:
                step()
            except ImgstoreError as error:
                failures.append(error)
            except OSError as error:
                failures.append(
                    PoolError(
                        f"what the import left cannot be removed: {shortage.why(error)}",
                        hint="look at the file systems of the pool and of the daemon's state folder",
                    )
                )
        if failures:
            raise failures[0]

    def _abandon(self, pool: str, uuid: str, *, locked: bool) -> None:
        keeper = self._catalog.pool(pool)
        if locked or not keeper.shared:
            keeper.abandon(uuid)
            self._catalog.reconcile(pool, uuid)
            return
        with self._locks.tried(uuid) as ours:
            if ours:
                keeper.abandon(uuid)
                self._catalog.reconcile(pool, uuid)
            else:
                log.info("somebody is at work on an image: its partial is left alone", uuid=uuid, pool=pool)

    def _forget(self, pool: str, uuid: str) -> None:
        """Drops the download and the journal's row, but no partial.

        Where the download stays, the row does, too: one bad file must not keep all other imports waiting.
        """
        name = spool_name(pool, uuid)
        try:
            self._remove_spool(name)
        except PoolError as error:
            log.error("a spool cannot be dropped", name=name, error=error.message)
            return
        self._journal.ranges(name).forget()
        self._journal.end(pool, uuid)

    def _remove_spool(self, name: str) -> None:
        for suffix in ("", INDEX, PAYLOADS):
            path = self._spools / (name + suffix)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise PoolError(
                    f"{path} cannot be removed: {shortage.why(error)}",
                    hint="look at the file system of the daemon's state folder",
                ) from error

    def sweep(self, keep_seconds: float) -> list[UnfinishedImport]:
        """Drops what belongs to no import that goes on or may go on; returns those that go on.

        Clients may install files meanwhile, so it locks an image before it drops its partial. It also does
        what `expire` does. The log names what cannot be dropped, and the rest goes on. Raises `PoolError` if
        it cannot look at all.
        """
        try:
            return self._sweep(keep_seconds)
        except OSError as error:
            raise PoolError(
                f"what earlier imports left cannot be swept up: {shortage.why(error)}",
                hint="look at the file system of the daemon's state folder",
            ) from error

    def _sweep(self, keep_seconds: float) -> list[UnfinishedImport]:
        self.expire(keep_seconds)
        going_on = []
        kept: set[str] = set()
        for unfinished in self._journal.imports():
            pool, uuid = unfinished.spec.key
            if pool not in self._catalog.pools or self._catalog.find(pool, uuid) is not None:
                self._forget(pool, uuid)
            elif unfinished.wanted:
                going_on.append(unfinished)
                kept.add(spool_name(pool, uuid))
            else:
                kept.add(spool_name(pool, uuid))
        self._sweep_pools({each.spec.key for each in going_on})
        self._sweep_spools(kept)
        self._catalog.sweep(self._locks)
        return going_on

    def expire(self, keep_seconds: float) -> None:
        """Drops partial downloads that no client has requested again within `keep_seconds`.

        While imports run, the caller must hold `Resources.beginning`: an import that begins marks its
        download as wanted.
        """
        for unfinished in self._journal.imports():
            pool, uuid = unfinished.spec.key
            touched_at = unfinished.touched_at
            if not unfinished.wanted and self._ages.is_over((pool, uuid), touched_at, keep_seconds):
                log.info("dropping a partial download that nobody asked for again", uuid=uuid, pool=pool)
                self._forget(pool, uuid)

    def _sweep_pools(self, going_on: set[tuple[str, str]]) -> None:
        for name, pool in self._catalog.pools.items():
            for uuid in pool.partials():
                if (name, uuid) not in going_on:
                    self._sweep_partial(name, uuid)

    def _sweep_partial(self, pool: str, uuid: str) -> None:
        log.info("dropping a half-received image", uuid=uuid, pool=pool)
        try:
            with self._locks.tried(uuid) as ours:
                if ours:
                    self._abandon(pool, uuid, locked=True)
                else:
                    log.info("somebody is at work on an image: its partial is left", uuid=uuid, pool=pool)
        except (ImgstoreError, OSError) as error:
            # Somebody may be looking at it, for example: the next start tries again.
            log.error("a half-received image cannot be dropped", uuid=uuid, pool=pool, error=str(error))

    def _sweep_spools(self, kept: set[str]) -> None:
        for name in self._journal.spooled() - kept:
            if _SPOOL_NAME.fullmatch(name):
                self._journal.ranges(name).forget()
        try:
            # At the start there may have been no room for the folder.
            self._spools.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise NoSpaceError(
                f"{self._spools} cannot be made: {shortage.why(error)}",
                hint="free space on the file system of the daemon's state folder",
            ) from error
        there = (path.name.removesuffix(INDEX).removesuffix(PAYLOADS) for path in self._spools.iterdir())
        for name in set(there) - kept:
            if _SPOOL_NAME.fullmatch(name):
                log.info("dropping a spool that belongs to no import", name=name)
                try:
                    self._remove_spool(name)
                except PoolError as error:
                    log.error("a spool cannot be dropped", name=name, error=error.message)
