"""Measures where an image's time goes: where its threads wait.

    network ──► checksum ──► decompress ──► pool

The network's seconds are those that the reader waits for bytes to come; each other stage's are those that it
has work, and nobody keeps it from it. They overlap: the stage that is at it nearly all the time is the one
that the others wait for. Each stopwatch is written by one thread at a time, and read by any, without locks.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from imgstored.transfer.limiting import Stage


class Stopwatch:
    """Sums up the seconds of its `with` blocks. One thread at a time runs it; any thread may `read`."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # Replaced as one, so that who reads it never sees half of a change.
        self._state: tuple[float, float | None] = (0.0, None)

    def __enter__(self) -> None:
        self._state = (self._state[0], monotonic())

    def __exit__(self, *_: object) -> None:
        total, since = self._state
        if since is not None:
            self._state = (total + monotonic() - since, None)

    def restart(self) -> None:
        """Begins at zero again; of a block that is running, only the time from now on counts."""
        total, since = self._state
        if since is not None:
            self._state = (total, monotonic())

    def read(self, now: float) -> float:
        """Seconds so far, at `now` of `time.monotonic`."""
        total, since = self._state
        return total if since is None else total + max(0.0, now - since)


class ThreadTimes(Struct, frozen=True):
    """A threaded iterator's: its thread runs; that thread waits for room; its consumer waits for an item."""

    running: Stopwatch = field(default_factory=Stopwatch)
    full: Stopwatch = field(default_factory=Stopwatch)
    empty: Stopwatch = field(default_factory=Stopwatch)


class Stages(Struct, frozen=True):
    """One image's stopwatches, of all its attempts."""

    turn: Stopwatch = field(default_factory=Stopwatch)
    origin: Stopwatch = field(default_factory=Stopwatch)
    lock: Stopwatch = field(default_factory=Stopwatch)
    waiting: Stopwatch = field(default_factory=Stopwatch)  #: the reader, for bytes to come
    verifying: Stopwatch = field(default_factory=Stopwatch)  #: all of the file is read before it is used
    hashed: ThreadTimes = field(default_factory=ThreadTimes)
    decompressed: ThreadTimes = field(default_factory=ThreadTimes)
    receiving: Stopwatch = field(default_factory=Stopwatch)
    publishing: Stopwatch = field(default_factory=Stopwatch)

    def seconds(self, now: float | None = None) -> dict[Stage, float]:
        """Seconds of each stage so far, at `now` of `time.monotonic`; they grow. For any thread."""
        at = monotonic() if now is None else now
        hashed, decompressed = self.hashed, self.decompressed
        waiting = self.waiting.read(at)
        reading = self.verifying.read(at) + hashed.running.read(at)
        inflating = decompressed.running.read(at)
        receiving = self.receiving.read(at) - decompressed.empty.read(at)
        return {
            "turn": self.turn.read(at),
            "origin": self.origin.read(at),
            "lock": self.lock.read(at),
            "network": waiting,
            "checksum": max(0.0, reading - waiting - hashed.full.read(at)),
            "decompress": max(0.0, inflating - hashed.empty.read(at) - decompressed.full.read(at)),
            "pool": max(0.0, receiving) + self.publishing.read(at),
        }
