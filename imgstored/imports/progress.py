"""Progress: how far images are, how fast they come, and what they wait for. Pure: it has no clock.

An image's bytes are downloaded, and then taken: decompressed and received. Both go on at the same time,
unless the whole file is verified first. The slower one of the two determines the progress, and the time left.
"""

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

#: The least number of seconds between two samples from which a reading is made.
_SHORTEST: Final = 0.25

#: Seconds for taking a compressed byte, until that is measured.
USUAL: Final = 1 / (64 << 20)

#: The highest fraction of an image that is not installed yet.
ALMOST: Final = 0.99
#: A reading that goes back by less stays as it was: rates are never the same twice.
_STEADY: Final = 0.05

#: The stages that take bytes. Where all of the file is verified first, its checksum comes before.
_TAKING: Final[tuple[Stage, ...]] = ("checksum", "decompress", "pool")
_TAKING_LATER: Final[tuple[Stage, ...]] = ("decompress", "pool")

#: Final phases: without an image, and all.
_WITHOUT_IMAGE: Final = ("failed", "cancelled")
_ENDED: Final = ("installed", *_WITHOUT_IMAGE)


class Sample(Struct, frozen=True):
    """One image's import at one moment. Bytes are compressed ones."""

    done: int = 0  #: bytes that are there
    came: int = 0  #: bytes that came since the import began; counts a byte again that came again
    consumed: int = 0  #: of the bytes that are there, those that were decompressed
    total: int | None = None
    spent: Mapping[Stage, float] = field(default_factory=dict)  #: seconds so far
    verified_first: bool = False  #: no byte is taken before all are there

    @property
    def downloading(self) -> bool:
        """True if more is to come."""
        return self.total is None or self.done < self.total


class Reading(Struct, frozen=True):
    """The reading of a gauge. `rate` is in compressed bytes a second of the last seconds, `eta` in seconds.

    `fraction` says how far the import is, from 0 to 1, None where nobody knows how much is to come.
    """

    rate: float
    limits: Stage | None
    eta: float | None
    fraction: float | None


class Gauge:
    """The samples of one import's last seconds. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Sample]] = deque()
        self._speed = 0.0  # of the download, while there was one
        self._last_fraction = 0.0  # of the last reading
        self.taking: float | None = None  #: seconds for taking a byte, once that is measured

    def sample(self, sample: Sample, now: float) -> None:
        """Adds a sample; called every second or so."""
        if self._samples:
            self._measure(sample, now)
            if sample.done < self._samples[-1][1].done:
                self._last_fraction = 0.0  # the download began again
        self._samples.append((now, sample))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def read(
        self, sample: Sample, now: float, *, usual: float = USUAL, origin: float | None = 0.0
    ) -> Reading:
        """Reads the gauge at `now`; adds no sample.

        `usual` is what `taking` is for other images. `origin` is how long the image's origin still takes,
        None where nobody knows.
        """
        since, before = self._samples[0] if self._samples else (now, sample)
        seconds = now - since
        if seconds < _SHORTEST:
            return Reading(0.0, None, None, self._steady(_at_first(sample)))
        self._measure(sample, now)
        spent = {stage: total - before.spent.get(stage, 0.0) for stage, total in sample.spent.items()}
        rate = max(0.0, (sample.came - before.came) / seconds)
        limits = limiting(spent, seconds, downloading=sample.downloading)
        taking = usual if self.taking is None else self.taking
        eta = _left(sample, rate, taking, origin)
        if limits == "lock" or (eta == 0.0 and not sample.downloading):
            eta = None  # other programs take an unknown time, and the last steps do not depend on bytes
        return Reading(rate, limits, eta, self._steady(_fraction(sample, self._speed, taking)))

    def _measure(self, sample: Sample, now: float) -> None:
        """Notes how fast the bytes came, and were taken, in the last seconds."""
        since, before = self._samples[0]
        seconds = now - since
        if seconds < _SHORTEST:
            return
        came, taken = sample.came - before.came, sample.consumed - before.consumed
        if came > 0 and (sample.downloading or not self._speed):
            self._speed = came / seconds
        if taken > 0:
            stages = _TAKING_LATER if sample.verified_first else _TAKING
            busy = max(sample.spent.get(stage, 0.0) - before.spent.get(stage, 0.0) for stage in stages)
            self.taking = busy / taken

    def _steady(self, fraction: float | None) -> float | None:
        if fraction is None:
            return None
        fraction = round(min(ALMOST, max(0.0, fraction)), 4)
        if not self._last_fraction - _STEADY < fraction < self._last_fraction:
            self._last_fraction = fraction
        return self._last_fraction


def _at_first(sample: Sample) -> float | None:
    """The progress of an import whose speed nobody knows yet."""
    if not sample.total:
        return None
    least, share = min(sample.done, sample.consumed) / sample.total, sample.done / sample.total
    return share if sample.downloading and not sample.verified_first else least


def _left(sample: Sample, rate: float, taking: float, origin: float | None) -> float | None:
    """The estimated seconds until all bytes are there and taken; None if that is unknown."""
    if sample.total is None or origin is None or (sample.downloading and rate <= 0.0):
        return None
    to_come = (sample.total - sample.done) / rate if sample.downloading else 0.0
    to_take = max(0, sample.total - sample.consumed) * taking
    if sample.verified_first:
        return max(to_come, origin) + to_take
    return max(to_come, origin + to_take)


def _fraction(sample: Sample, rate: float, taking: float) -> float | None:
    """The part of the import's whole time that has passed, at these speeds."""
    if not sample.total:
        return None
    if sample.downloading and rate <= 0.0:
        return _at_first(sample)
    whole = Sample(total=sample.total, verified_first=sample.verified_first)
    if rate <= 0.0:  # all was there
        return sample.consumed / sample.total
    all_ = _left(whole, rate, taking, 0.0)
    left = _left(sample, rate, taking, 0.0)
    return 1.0 - left / all_ if left is not None and all_ else None


def summed_up(images: Iterable[ImageProgress]) -> Progress:
    """The progress of all images of one request. A figure that one image lacks is unknown for all of them."""
    images = list(images)
    total: int | None = 0
    for image in images:
        total = None if total is None or image["total"] is None else total + image["total"]
    done = sum(image["done"] for image in images)
    rate = sum(image.get("rate") or 0.0 for image in images)
    return Progress(
        event="progress",
        done=done,
        total=total,
        rate=rate,
        images=images,
        fraction=_of_all(images),
        eta=_until_the_last(images, rate),
    )


def _of_all(images: list[ImageProgress]) -> float | None:
    """The progress of all images; a large one counts more than a small one."""
    whole = passed = 0.0
    for image in images:
        if image["phase"] in _WITHOUT_IMAGE:
            continue
        fraction, total = image.get("fraction"), image["total"]
        if fraction is None or total is None:
            return None
        whole, passed = whole + total, passed + fraction * total
    return passed / whole if whole else None


def _until_the_last(images: list[ImageProgress], rate: float) -> float | None:
    """Seconds until the slowest image is there, and all images are downloaded; None if that is unknown."""
    under_way = [image for image in images if image["phase"] not in _ENDED]
    known = [eta for image in under_way if (eta := image.get("eta")) is not None]
    if any(image["total"] is None for image in under_way):
        return None
    to_come = sum(max(0, (image["total"] or 0) - image["done"]) for image in under_way)
    if to_come and rate > 0.0:
        known.append(to_come / rate)
    return max(known, default=None)
