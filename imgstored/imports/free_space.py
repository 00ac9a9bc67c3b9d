"""Free space: checked before an import begins, and again while its bytes come in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgstored.errors import NoSpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgstored.pools.base import Pool

#: Bytes of a stream between two checks of the pool.
_EVERY = 64 << 20

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class FreeSpace:
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

    def check_pool(self, pool: Pool, at_least: int) -> None:
        """Raises `NoSpaceError` unless a stream of `at_least` bytes fits into the pool. Blocks."""
        free = pool.space().available
        if free - at_least < self.min_free:
            raise self._shortage(f'in pool "{pool.name}"', at_least, free)

    def watched(self, stream: Iterator[bytes | memoryview], pool: Pool) -> Iterator[bytes | memoryview]:
        """Yields the stream's pieces; raises `NoSpaceError` once the pool is full. Blocks."""
        due = 0
        for piece in stream:
            due -= len(piece)
            if due < 0:
                self.check_pool(pool, 0)
                due = _EVERY
            yield piece

    def _shortage(self, where: str, wanted: int, free: int) -> NoSpaceError:
        return NoSpaceError(
            f"not enough room {where}: {wanted / _MIB:.1f} MiB to come, {free / _MIB:.1f} MiB free"
            f" ({self.min_free / _MIB:.0f} MiB are kept free)",
            hint="delete images that are not needed (`imgctl list`), or make room otherwise",
            data={"wanted": wanted, "free": free, "min_free": self.min_free},
        )
