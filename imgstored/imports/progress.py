"""How fast an image comes of late, what it waits for, and how long it will take. Pure: it has no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgstored.transfer.limiting import limiting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.transfer.limiting import Stage

#: Seconds between two samples, and how far back the oldest one lies.
EVERY: Final = 1.0
WINDOW: Final = 4.0

#: Seconds after which something can be said.
_SHORTEST: Final = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """How an image stands at one moment. Bytes are compressed ones."""

    done: int = 0  #: that are there
    consumed: int = 0  #: of these, that were decompressed
    total: int | None = None
    spent: Mapping[Stage, float] = field(default_factory=dict)  #: seconds so far

    @property
    def downloading(self) -> bool:
        """Whether more is to come."""
        return self.total is None or self.done < self.total


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the last seconds. `rate` is in compressed bytes a second that came, `eta` in seconds."""

    rate: float
    limits: Stage | None
    eta: float | None


class Gauge:
    """Remembers the samples of the last seconds. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Sample]] = deque()

    def sample(self, sample: Sample, now: float) -> None:
        """To be called every second or so."""
        self._samples.append((now, sample))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def read(self, sample: Sample, now: float) -> Reading:
        """What it looks like at `now`; remembers nothing."""
        since, before = self._samples[0] if self._samples else (now, sample)
        seconds = now - since
        if seconds < _SHORTEST:
            return Reading(0.0, None, None)
        spent = {stage: total - before.spent.get(stage, 0.0) for stage, total in sample.spent.items()}
        rate = max(0.0, (sample.done - before.done) / seconds)
        taken = max(0.0, (sample.consumed - before.consumed) / seconds)
        limits = limiting(spent, seconds, downloading=sample.downloading)
        return Reading(rate, limits, _eta(sample, rate, 0.0 if limits == "network" else taken))


def _eta(sample: Sample, rate: float, taken: float) -> float | None:
    """Seconds until all is there and decompressed, as far as that can be seen now."""
    if sample.total is None or (sample.downloading and rate <= 0.0):
        return None
    to_come, to_take = sample.total - sample.done, sample.total - sample.consumed
    return max(
        (left / speed for left, speed in ((to_come, rate), (to_take, taken)) if left > 0 and speed > 0.0),
        default=None,
    )
