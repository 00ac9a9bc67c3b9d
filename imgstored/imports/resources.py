"""The resources of all imports: the pools and their files, limits and slots, and the check of free space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from imgstored.errors import NoSpaceError
from imgstored.imports.leftovers import Leftovers
from imgstored.manifest.values import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.receipts import Receipts
    from imgstored.imports.journal import Journal
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Pool
    from imgstored.transfer.decompress import DecompressLimits
    from imgstored.transfer.download import DownloadLimits

#: Bytes of a stream between two checks of the pool.
_EVERY = 64 << 20

_MIB = 1 << 20


class ImportLimits(Struct, frozen=True):
    """Bounds on the imports at the same time, and on what one image may take. Sizes in bytes.

    All of it is configured: the defaults are in `LimitsTable`.
    """

    imports: int
    min_free: int
    keep_partial_seconds: float
    download: DownloadLimits
    decompress: DecompressLimits


class Resources:
    """Made once a daemon; its attributes are read-only."""

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        spools: Path,
        view: View,
        locks: ImageLocks,
        limits: ImportLimits,
        *,
        receipts: Receipts | None = None,
    ) -> None:
        """`spools` is the folder of the files that are being downloaded."""
        self.catalog = catalog
        self.journal = journal
        self.spools = spools
        self.view = view
        self.locks = locks
        self.receipts = receipts
        self.leftovers = Leftovers(catalog, journal, spools, locks)
        #: Held while an import makes its download wanted, and while those that nobody wants are dropped.
        self.beginning = trio.Lock()
        self.download_slots = trio.CapacityLimiter(limits.imports)
        # A receive needs no download slot once its bytes are there, and must not take one from a download.
        self.receive_slots = trio.CapacityLimiter(2 * limits.imports)
        self.reconfigure(limits)

    def reconfigure(self, limits: ImportLimits) -> None:
        """Sets new limits. Imports that hold a slot keep it; the others wait by the new limits."""
        self.limits = limits
        self.free_space = FreeSpace(self.spools, limits.min_free)
        self.download_slots.total_tokens = limits.imports
        self.receive_slots.total_tokens = 2 * limits.imports


class FreeSpace(Struct, frozen=True):
    """Checks the free space of file systems and pools. `min_free` bytes stay free in each."""

    folder: Path  #: where files are spooled
    min_free: int

    def free(self) -> int:
        """Free bytes in the folder. Blocks briefly."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def check_spool(self, to_come: int) -> None:
        """Raises `NoSpaceError` unless `to_come` bytes still fit into the folder. Blocks briefly."""
        free = self.free()
        if to_come and free - to_come < self.min_free:
            raise self._shortage(f"in {self.folder}", to_come, free)

    def check_pool(self, pool: Pool, at_least: int) -> int:
        """Free bytes of the pool. Raises `NoSpaceError` unless a stream of `at_least` bytes fits. Blocks."""
        free = pool.space().available
        if free - at_least < self.min_free:
            raise self._shortage(f'in pool "{pool.name}"', at_least, free)
        return free

    def doubt(self, pool: Pool, manifest: Manifest) -> str | None:
        """A sentence where the image's volume is larger than the pool's free space. Blocks.

        That is no refusal: a volume may be sparse, and a pool may compress it.
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

    def watched(self, stream: Iterator[bytes | memoryview], pool: Pool) -> Iterator[bytes | memoryview]:
        """Yields the stream's pieces; raises `NoSpaceError` once the pool is full. Blocks."""
        due = came = 0
        for piece in stream:
            due -= len(piece)
            if due < 0:
                free = pool.space().available
                if free < self.min_free:
                    where = f'in pool "{pool.name}"'
                    raise self._shortage(where, came, free, "came, and more is to come")
                due = _EVERY
            came += len(piece)
            yield piece

    def _shortage(self, where: str, wanted: int, free: int, verb: str = "to come") -> NoSpaceError:
        return NoSpaceError(
            f"not enough room {where}: {wanted / _MIB:.1f} MiB {verb}, {free / _MIB:.1f} MiB free"
            f" ({self.min_free / _MIB:.0f} MiB are kept free)",
            hint="free space, for example with `imgctl vacuum`",
            data={"wanted": wanted, "free": free, "min_free": self.min_free},
        )
