"""What imports leave behind, and who cleans it up. All of it blocks: for worker threads.

In a pool that others change, too, a partial may be what imgadm is receiving. So it is only dropped by who has
the image's lock.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import structlog

from imgstored.errors import ImgstoreError
from imgstored.manifest.names import UUID

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.imports.journal import Journal, JournalledImport

log = structlog.get_logger(__name__)

#: What `spool_name` makes.
_SPOOL_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9._-]*-{UUID.pattern}")


def spool_name(pool: str, uuid: str) -> str:
    """An image's name in the spool folder and in the journal."""
    return f"{pool}-{uuid}"


class Leftovers:
    """The spools, the journal's entries and the pools' partials."""

    def __init__(self, catalog: Catalog, journal: Journal, spools: Path, locks: ImageLocks) -> None:
        self._catalog = catalog
        self._journal = journal
        self._spools = spools
        self._locks = locks

    def drop_partial(self, pool: str, uuid: str, *, locked: bool) -> None:
        """Nobody wants the image now: what was downloaded stays, and serves the next who does.

        `locked` says whether the caller has the image's lock; so below.
        """
        self._abandon(pool, uuid, locked=locked)
        self._journal.park(pool, uuid)

    def drop_bytes(self, pool: str, uuid: str, *, locked: bool) -> None:
        """Nothing that came was the image; the import itself goes on."""
        self._abandon(pool, uuid, locked=locked)
        self._drop_spool(spool_name(pool, uuid))

    def drop_all(self, pool: str, uuid: str, *, locked: bool) -> None:
        """The import failed, or somebody else was faster: nothing of it is worth keeping."""
        self.drop_bytes(pool, uuid, locked=locked)
        self._journal.end(pool, uuid)

    def _abandon(self, pool: str, uuid: str, *, locked: bool) -> None:
        keeper = self._catalog.pool(pool)
        if locked or not keeper.shared:
            keeper.abandon(uuid)
            self._catalog.settle(pool, uuid)
            return
        with self._locks.tried(uuid) as ours:
            if ours:
                keeper.abandon(uuid)
                self._catalog.settle(pool, uuid)
            else:
                log.info("somebody is at work on an image: its partial is left alone", uuid=uuid, pool=pool)

    def forget(self, pool: str, uuid: str) -> None:
        """The image is installed: how it got there is of no use any more."""
        self._drop_spool(spool_name(pool, uuid))
        self._journal.end(pool, uuid)

    def _drop_spool(self, name: str) -> None:
        (self._spools / name).unlink(missing_ok=True)
        self._journal.ranges(name).forget()

    def sweep(self, keep_seconds: float) -> list[JournalledImport]:
        """Removes what belongs to no import that goes on or may go on; returns those that do.

        Partial downloads that nobody has asked for again in `keep_seconds` go, too.
        """
        going_on = []
        kept: set[str] = set()
        for unfinished in self._journal.imports():
            pool, uuid = unfinished.pool, unfinished.uuid
            too_old = time.time() - unfinished.touched_at > keep_seconds
            if pool not in self._catalog.pools or self._catalog.find(pool, uuid) is not None:
                self.forget(pool, uuid)
            elif unfinished.wanted:
                going_on.append(unfinished)
                kept.add(spool_name(pool, uuid))
            elif too_old:
                log.info("dropping a partial download that nobody asked for again", uuid=uuid, pool=pool)
                self.forget(pool, uuid)
            else:
                kept.add(spool_name(pool, uuid))
        self._sweep_pools({(each.pool, each.uuid) for each in going_on})
        self._sweep_spools(kept)
        self._catalog.sweep(self._locks)
        return going_on

    def _sweep_pools(self, going_on: set[tuple[str, str]]) -> None:
        for name, pool in self._catalog.pools.items():
            for uuid in pool.partials():
                if (name, uuid) not in going_on:
                    self._sweep_partial(name, uuid)

    def _sweep_partial(self, pool: str, uuid: str) -> None:
        log.info("dropping a half-received image", uuid=uuid, pool=pool)
        try:
            self._abandon(pool, uuid, locked=False)
        except ImgstoreError as error:
            # Such as one that is being looked at: the next start tries again.
            log.error("a half-received image cannot be dropped", uuid=uuid, pool=pool, error=error.message)

    def _sweep_spools(self, kept: set[str]) -> None:
        for name in self._journal.spooled() - kept:
            self._journal.ranges(name).forget()
        for path in self._spools.iterdir():
            if path.name not in kept and _SPOOL_NAME.fullmatch(path.name):
                log.info("dropping a spool that belongs to no import", name=path.name)
                path.unlink(missing_ok=True)
