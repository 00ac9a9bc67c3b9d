"""The memory of a spool's ranges: what a journal has, and what a download asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from imgstored.hashing import SIZE
from imgstored.transfer.plan import MAX_RANGE, MIN_RANGE, range_count

if TYPE_CHECKING:
    from imgstored.hashing import Fingerprint


class Spooled(Struct, frozen=True):
    """The state of a spool in a journal."""

    size: int  #: bytes of the whole file
    range_size: int  #: bytes of each range but the last
    fingerprints: dict[int, Fingerprint] = field(default_factory=dict)  #: of complete ranges, by index
    validators: dict[str, str] = field(default_factory=dict)  #: ETag or date, by mirror's URL

    def is_plausible(self, size: int | None, length: int) -> bool:
        """True if this can be true of a file of `length` bytes that should have `size` (None: not known)."""
        return (
            self.size == length
            and size in (None, self.size)
            and MIN_RANGE <= self.range_size <= MAX_RANGE
            and all(0 <= index < range_count(self.size, self.range_size) for index in self.fingerprints)
            and all(len(each.digest) == SIZE for each in self.fingerprints.values())
        )

    def comparable(self) -> list[int]:
        """The complete ranges, in order, that can be compared with what was written."""
        return sorted(index for index, each in self.fingerprints.items() if each.can_be_compared)


class RangeJournal(Protocol):
    """Remembers a spool's ranges. Called from several threads at once."""

    def load(self) -> Spooled | None:
        """Reads what is written down; None if nothing is."""
        ...

    def begin(self, size: int, range_size: int) -> None:
        """A file of `size` bytes in ranges of `range_size` begins anew; what was known is forgotten."""
        ...

    def record(self, index: int, fingerprint: Fingerprint) -> None:
        """Range `index` is in the spool, and has this fingerprint."""
        ...

    def remember(self, url: str, validator: str) -> None:
        """Remembers what the server at `url` calls this state of the file."""
        ...

    def forget(self) -> None:
        """Nothing of the file is there any more."""
        ...
