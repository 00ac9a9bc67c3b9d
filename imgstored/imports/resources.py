"""The resources of all imports: the pools and their files, limits and slots, and the check of free space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from imgstored.imports.delta_choice import Rates
from imgstored.imports.free_space import FreeSpace
from imgstored.imports.leftovers import Leftovers

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.receipts import Receipts
    from imgstored.imports.delta_choice import Policy
    from imgstored.imports.journal import Journal
    from imgstored.library.library import Library
    from imgstored.transfer.decompress import DecompressLimits
    from imgstored.transfer.download import DownloadLimits


class ImportLimits(Struct, frozen=True):
    """Bounds on the imports at the same time, and on the resources of one image. Sizes in bytes.

    All are configured; the defaults are in `LimitsTable`.
    """

    imports: int
    min_free: int
    keep_partial_seconds: float
    download: DownloadLimits
    decompress: DecompressLimits
    deltas: Policy = "auto"


class Resources:
    """The resources of one daemon. Other modules only read the attributes."""

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
        library: Library | None = None,
    ) -> None:
        """`spools` is the folder of partial downloads; `library` gets the files that are complete."""
        self.catalog = catalog
        self.journal = journal
        self.spools = spools
        self.view = view
        self.locks = locks
        self.receipts = receipts
        self.library = library
        self.leftovers = Leftovers(catalog, journal, spools, locks)
        #: Held while an import marks its download as wanted, and while unwanted downloads are dropped.
        self.beginning = trio.Lock()
        self.download_slots = trio.CapacityLimiter(limits.imports)
        # A receive whose bytes are there must not take a slot from a download.
        self.receive_slots = trio.CapacityLimiter(2 * limits.imports)
        self.rates = Rates()
        self.free_space = FreeSpace(spools, limits.min_free, catalog.pools.values())
        self.reconfigure(limits)

    def reconfigure(self, limits: ImportLimits) -> None:
        """Sets new limits. Imports that hold a slot keep it; the others wait by the new limits."""
        self.limits = limits
        self.free_space.reconfigure(limits.min_free)
        self.download_slots.total_tokens = limits.imports
        self.receive_slots.total_tokens = 2 * limits.imports
