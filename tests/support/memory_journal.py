"""A range journal in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imgstored.transfer.range_journal import Spooled

if TYPE_CHECKING:
    from imgstored.hashing import Fingerprint


class MemoryJournal:
    """The `RangeJournal` of a download, in memory."""

    def __init__(self) -> None:
        self.spooled: Spooled | None = None
        self._lock = threading.Lock()

    def load(self) -> Spooled | None:
        with self._lock:
            known = self.spooled
            if known is None:
                return None
            return Spooled(known.size, known.range_size, dict(known.fingerprints), dict(known.validators))

    def begin(self, size: int, range_size: int) -> None:
        with self._lock:
            self.spooled = Spooled(size, range_size)

    def record(self, index: int, fingerprint: Fingerprint) -> None:
        with self._lock:
            assert self.spooled is not None
            self.spooled.fingerprints[index] = fingerprint

    def remember(self, url: str, validator: str) -> None:
        with self._lock:
            assert self.spooled is not None
            self.spooled.validators[url] = validator

    def forget(self) -> None:
        with self._lock:
            self.spooled = None
