"""What all imports share: the pools and their files, the limits, and the slots that the limits grant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from imgstored.imports.free_space import FreeSpace
from imgstored.imports.leftovers import Leftovers
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.download import DownloadLimits

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.receipts import Receipts
    from imgstored.imports.journal import Journal


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Bounds on the imports at the same time, and on what one image may take. Sizes in bytes."""

    imports: int = 4
    min_free: int = 64 << 20
    keep_partial_seconds: float = 7 * 86400.0
    download: DownloadLimits = field(default_factory=DownloadLimits)
    decompress: DecompressLimits = field(default_factory=DecompressLimits)


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
        self.reconfigure(limits)

    def reconfigure(self, limits: ImportLimits) -> None:
        """Sets new limits. Imports that already hold a slot keep it."""
        self.limits = limits
        self.free_space = FreeSpace(self.spools, limits.min_free)
        self.download_slots = trio.CapacityLimiter(limits.imports)
        # A receive needs no download slot once its bytes are there, and must not take one from a download.
        self.receive_slots = trio.CapacityLimiter(2 * limits.imports)
