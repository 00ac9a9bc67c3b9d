"""Free space for imports: what they have reserved in the file system of the spool, and in the pools.

A claim belongs to one import, in one place. Bytes are reserved before they come, and count as reserved until
they are written: from then on a measurement of the free space sees them. In a pool that lags, it sees them
only after `Pool.settle`, and they count until then. Bytes in a pool's queue are not seen even then, and count
as long as the import has the claim. Claims in places with the same storage share its free space: several
imports at once, or the spool and the pool. All calls block, and may be made from any thread.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

from imgstored.errors import NoSpaceError
from imgstored.host.mounts import storage_of
from imgstored.manifest.values import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from imgstored.manifest import Manifest
    from imgstored.pools.base import Pool, Room
    from imgstored.transfer.pump import Pieces

_Result = TypeVar("_Result")

_MIB: Final = 1 << 20
#: Bytes of one claim between two measurements of the free space. A claim of unknown size reserves no more
#: than this ahead, and no more than one `_PART`th of what is left.
_EVERY: Final = 16 << 20
_PART: Final = 8


class Claim:
    """The bytes that one import has reserved in one place; a `pools.base.Room`. The import closes it."""

    def __init__(
        self, ledger: FreeSpace, where: str, storage: str, measure: Callable[[], int], queue: int = 0
    ) -> None:
        """`queue` is how many of the written bytes may still wait in the pool's queue."""
        self.storage = storage
        self.reserved = 0  #: bytes that are to come; those that are being written, too
        self._ledger = ledger
        self._where = where
        self._measure = measure
        self._queue = queue
        self._writing = self._spent = 0
        self._exact = False
        self._came = self._unseen = 0  # bytes, ever and since the last look

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """Reserves the known number of bytes still to come; returns the free bytes. Raises `NoSpaceError`.

        `exact`: no more bytes than that will take room, and some may replace others.
        """

        def reserve(free: int, pending: int) -> int:
            others = self._ledger.reserved(self.storage) - self.reserved
            self._check(free, pending, others, to_come)
            # What is being written may be there already, and not among what is to come.
            self.reserved, self._exact, self._unseen = to_come + self._writing, exact, 0
            return free

        return self._ledger.measured(self.storage, self._measure, reserve)

    def add(self, size: int) -> None:
        """Reserves so many bytes more. Raises `NoSpaceError`."""

        def reserve(free: int, pending: int) -> None:
            self._check(free, pending, self._ledger.reserved(self.storage), size)
            self.reserved += size

        self._ledger.measured(self.storage, self._measure, reserve)

    def take(self, size: int) -> None:
        """Bytes are about to be written. Raises `NoSpaceError` where they, or what is to come, do not fit."""
        with self._ledger.lock:
            self._unseen += size
            covered = self._exact or self.reserved - self._writing >= size
            if covered and self._unseen < _EVERY:
                self._begin(size)
                return

        def look(free: int, pending: int) -> None:
            lacking = 0 if self._exact else max(0, size - (self.reserved - self._writing))
            if lacking:
                others = self._ledger.reserved(self.storage) - self.reserved
                wanted = self.reserved + lacking
                self._check(free, pending, others, wanted, more=lacking)
                left = free - pending - others - wanted - self._ledger.min_free
                self.reserved = wanted + min(_EVERY, left // _PART)
            else:
                # Others may have filled the storage meanwhile. The claim that came first goes on.
                earlier = self._ledger.reserved(self.storage, before=self)
                self._check(free, pending, earlier, self.reserved, more=size)
            self._unseen = 0
            self._begin(size)

        self._ledger.measured(self.storage, self._measure, look)

    def spent(self, size: int) -> None:
        """Bytes of `take` are written, or will not be."""
        with self._ledger.lock:
            self._writing -= size
            self._spent += size
            self.reserved = max(self._writing, self.reserved - size)
            self._ledger.written[self.storage] += size

    @property
    def queued(self) -> int:
        """The written bytes that may wait in the pool's queue. The caller must hold the lock."""
        return min(self._queue, self._spent)

    def close(self) -> None:
        """Gives back what is reserved."""
        self._ledger.forget(self)

    def _begin(self, size: int) -> None:
        self._writing += size
        self._came += size
        self.reserved = max(self.reserved, self._writing)

    def _check(self, free: int, pending: int, others: int, wanted: int, *, more: int = 0) -> None:
        """`more` is the part of `wanted` that comes now, after other bytes."""
        if not wanted or free - pending - others - wanted >= self._ledger.min_free:
            return
        what = f"{self._came / _MIB:.1f} MiB came, and more is" if more else f"{wanted / _MIB:.1f} MiB"
        taken = f", {others / _MIB:.1f} MiB are reserved by imports" if others else ""
        min_free = self._ledger.min_free
        raise NoSpaceError(
            f"not enough room {self._where}: {what} to come, {free / _MIB:.1f} MiB free"
            f" ({min_free / _MIB:.0f} MiB are kept free{taken})",
            hint="free space, for example with `imgctl vacuum`",
            data={"wanted": wanted, "free": free, "min_free": min_free, "reserved": others, "more": more},
        )


class FreeSpace:
    """The free space of the spool's file system and of the pools, and who has reserved what of it."""

    def __init__(self, folder: Path, min_free: int, pools: Iterable[Pool] = ()) -> None:
        """`folder` is where files are spooled. `min_free` bytes stay free there, and in each pool."""
        self.folder = folder
        self.min_free = min_free
        self.lock = threading.Lock()
        self.written: Counter[str] = Counter()  #: bytes by storage, ever
        self._claims: list[Claim] = []
        self._lagging = {pool.storage: pool for pool in pools if pool.lags}
        self._seen: Counter[str] = Counter()  # the part of `written` that measurements surely see

    def reconfigure(self, min_free: int) -> None:
        """Sets how much is to stay free from now on."""
        self.min_free = min_free

    # -- reserving -------------------------------------------------------------------------------------------

    def claim_spool(self) -> Claim:
        """A claim in the spool's folder, of nothing yet. Blocks."""
        return self.claim_folder(self.folder)

    def claim_folder(self, folder: Path) -> Claim:
        """A claim in another folder for files, of nothing yet. Blocks."""
        return self._claim(f"in {folder}", storage_of(folder), lambda: _free_in(folder))

    def claim_pool(self, pool: Pool) -> Claim:
        """A claim in a pool, of nothing yet."""
        return self._claim(f'in pool "{pool.name}"', pool.storage, lambda: pool.space().available, pool.queue)

    def _claim(self, where: str, storage: str, measure: Callable[[], int], queue: int = 0) -> Claim:
        claim = Claim(self, where, storage, measure, queue)
        with self.lock:
            self._claims.append(claim)
        return claim

    def forget(self, claim: Claim) -> None:
        """Gives back what a claim has reserved."""
        with self.lock:
            self._claims = [each for each in self._claims if each is not claim]

    def measured(
        self, storage: str, measure: Callable[[], int], act: Callable[[int, int], _Result]
    ) -> _Result:
        """Calls `act` with the free bytes, and the written bytes that these may still include.

        `act` runs under the lock, but the measurement does not, because a pool may hang. If `act` raises
        `NoSpaceError`, it is called again once the measurement sees all written bytes except those in queues:
        they may take less room than their number.
        """
        settled = False
        while True:
            before = self.written[storage]
            free = measure()
            with self.lock:
                lag = before - self._seen[storage] if storage in self._lagging else 0
                try:
                    return act(free, lag + self.written[storage] - before)
                except NoSpaceError:
                    if not lag or (settled and lag <= self._queued(storage)):
                        raise
            self._settle(storage)
            settled = True

    def _settle(self, storage: str) -> None:
        with self.lock:
            written = self.written[storage] - self._queued(storage)
        self._lagging[storage].settle()
        with self.lock:
            self._seen[storage] = max(self._seen[storage], written)

    def _queued(self, storage: str) -> int:
        return sum(claim.queued for claim in self._claims if claim.storage == storage)

    def reserved(self, storage: str, *, before: Claim | None = None) -> int:
        """The bytes that all claims, or those before one, have reserved. The caller must hold the lock."""
        found = 0
        for claim in self._claims:
            if claim is before:
                break
            found += claim.reserved if claim.storage == storage else 0
        return found

    # -- looking ---------------------------------------------------------------------------------------------

    def free(self) -> int:
        """Free bytes in the folder."""
        return _free_in(self.folder)

    def check_spool(self, to_come: int) -> None:
        """Raises `NoSpaceError` unless `to_come` bytes still fit into the folder."""
        claim = self.claim_spool()
        try:
            claim.expect(to_come)
        finally:
            claim.close()

    def check_pool(self, pool: Pool, at_least: int) -> int:
        """Free bytes of the pool. Raises `NoSpaceError` unless a stream of `at_least` bytes fits."""
        claim = self.claim_pool(pool)
        try:
            return claim.expect(max(1, at_least))
        finally:
            claim.close()

    def warning(self, pool: Pool, manifest: Manifest) -> str | None:
        """A sentence if the image's volume is larger than the pool's free space, else None.

        This only warns: a volume may be sparse, and a pool may compress it.
        """
        size = whole_number(manifest.document.get("image_size"))  # MiB
        if size is None:
            return None
        free = (pool.space().available - self.min_free) // _MIB
        if size <= free:
            return None
        return (
            f"the volume of image {manifest.uuid} has {size} MiB, and pool {pool.name} has"
            f" {max(0, free)} MiB for it: it may not fit"
        )


def _free_in(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class CancellableRoom:
    """A `Room` that ends a pool's work, also where the pool does not ask for more of the stream.

    `check` raises once the work is cancelled.
    """

    def __init__(self, room: Room, check: Callable[[], None]) -> None:
        self._room = room
        self._check = check

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """As of `Room`."""
        return self._room.expect(to_come, exact=exact)

    def add(self, size: int) -> None:
        """As of `Room`."""
        self._room.add(size)

    def take(self, size: int) -> None:
        """As of `Room`; raises what `check` raises."""
        self._check()
        self._room.take(size)

    def spent(self, size: int) -> None:
        """As of `Room`."""
        self._room.spent(size)


def watched(
    stream: Pieces, claim: Claim, there: int
) -> Generator[bytes | bytearray | memoryview, None, None]:
    """Yields a stream's pieces; the pool has the first `there` bytes, and the bytes after them take room.

    To be closed. Raises `NoSpaceError` once the pool is full.
    """
    position = 0
    for piece in stream:
        position += len(piece)
        fresh = min(len(piece), max(0, position - there))
        claim.take(fresh)
        try:
            yield piece
        finally:
            claim.spent(fresh)
