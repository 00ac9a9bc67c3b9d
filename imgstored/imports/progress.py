"""Progress: how fast images come of late, what they wait for, how long they take. Pure: it has no clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from imgproto.events import ImageProgress, Progress
from msgspec import Struct, field

from imgstored.transfer.limiting import limiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.transfer.limiting import Stage

#: Seconds between two samples, and how far back the oldest one lies.
EVERY: Final = 1.0
WINDOW: Final = 4.0

#: Seconds that a reading takes at least.
_SHORTEST: Final = 0.25

#: Seconds over which a request's rate is taken.
RATE_WINDOW: Final = 3.0


class Sample(Struct, frozen=True):
    """One image's import at one moment. Bytes are compressed ones."""

    done: int = 0  #: bytes that are there
    consumed: int = 0  #: bytes of them that were decompressed
    total: int | None = None
    spent: Mapping[Stage, float] = field(default_factory=dict)  #: seconds so far

    @property
    def downloading(self) -> bool:
        """Whether more is to come."""
        return self.total is None or self.done < self.total


class Reading(Struct, frozen=True):
    """The reading of a gauge over the last seconds: `rate` in compressed bytes a second, `eta` in seconds."""

    rate: float
    limits: Stage | None
    eta: float | None


class Gauge:
    """The samples of one import's last seconds. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Sample]] = deque()

    def sample(self, sample: Sample, now: float) -> None:
        """Adds a sample; called every second or so."""
        self._samples.append((now, sample))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def read(self, sample: Sample, now: float) -> Reading:
        """Reads the gauge at `now`; adds no sample."""
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


class ProgressMeter:
    """Sums up the progress of one request's imports. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def read(self, progress: Iterable[ImageProgress], now: float) -> Progress:
        """The sum at `now`. The total is unknown if that of one image is."""
        images = list(progress)
        done = sum(image["done"] for image in images)
        total: int | None = 0
        for image in images:
            total = None if total is None or image["total"] is None else total + image["total"]
        self._samples.append((now, done))
        while now - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = max(0.0, (done - before) / (now - since)) if now > since else 0.0
        return Progress(event="progress", done=done, total=total, rate=rate, images=images)
