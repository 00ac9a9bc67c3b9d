"""A range journal that remembers as long as its test."""

from __future__ import annotations

import threading

from imgstored.transfer.spool import Spooled


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
            return Spooled(known.size, known.range_size, dict(known.digests), dict(known.validators))

    def begin(self, size: int, range_size: int) -> None:
        with self._lock:
            self.spooled = Spooled(size, range_size)

    def record(self, index: int, digest: bytes) -> None:
        with self._lock:
            assert self.spooled is not None
            self.spooled.digests[index] = digest

    def remember(self, url: str, validator: str) -> None:
        with self._lock:
            assert self.spooled is not None
            self.spooled.validators[url] = validator

    def forget(self) -> None:
        with self._lock:
            self.spooled = None
