"""How an image comes of late, by numbers alone."""

from __future__ import annotations

from typing import Any

import pytest

from imgstored.imports.progress import EVERY, RATE_WINDOW, WINDOW, Gauge, ProgressMeter, Reading, Sample
from tests.support.events import ImageProgress


def sample(done: int = 0, consumed: int = 0, total: int | None = 1000, **spent: Any) -> Sample:
    return Sample(done, consumed, total, spent)


def test_nothing_is_known_at_the_start() -> None:
    assert Gauge().read(sample(), 5.0) == Reading(0.0, None, None)
    gauge = Gauge()
    gauge.sample(sample(), 5.0)
    assert gauge.read(sample(), 5.0) == Reading(0.0, None, None)


def test_a_download() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    reading = gauge.read(sample(done=200, consumed=190, network=1.9, decompress=0.1), 2.0)
    assert reading == Reading(100.0, "network", 8.0)


def test_what_is_there_has_yet_to_be_received() -> None:
    gauge = Gauge()
    gauge.sample(sample(done=1000, consumed=100, pool=1.0), 10.0)
    reading = gauge.read(sample(done=1000, consumed=150, pool=2.0), 11.0)
    assert reading == Reading(0.0, "pool", 17.0)


def test_the_slower_one_of_both_says_how_long() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    assert gauge.read(sample(done=500, consumed=100, pool=1.0), 1.0).eta == 9.0


@pytest.mark.parametrize(
    "now", [sample(total=None, done=10), sample(done=0, network=1.0), sample(done=1000, consumed=1000)]
)
def test_how_long_is_not_known(now: Sample) -> None:
    gauge = Gauge()
    gauge.sample(sample(total=now.total), 0.0)
    if now.done == 1000:
        gauge.sample(now, 0.5)
    assert gauge.read(now, 1.0).eta is None


def test_only_the_last_seconds_count() -> None:
    gauge = Gauge()
    for second in range(20):
        gauge.sample(sample(done=100 * min(second, 10), network=float(min(second, 10)), pool=0.0), second)
    reading = gauge.read(sample(done=1000, consumed=900, network=10.0, pool=1.0), 20.0)
    assert (reading.rate, reading.limits) == (0.0, "pool")
    assert len(gauge._samples) <= WINDOW / EVERY + 1


def test_who_reads_often_leaves_nothing_behind() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    for number in range(1000):
        gauge.read(sample(done=number), 1.0 + number / 1000)
    assert len(gauge._samples) == 1


def test_a_fresh_start_is_no_negative_rate() -> None:
    gauge = Gauge()
    gauge.sample(sample(done=900), 0.0)
    assert gauge.read(sample(done=0), 1.0).rate == 0.0


def image(done: int, total: int | None) -> ImageProgress:
    return ImageProgress("u", "n", "1", "downloading", done, total, 0)


def test_the_rate_is_that_of_the_last_seconds():
    meter = ProgressMeter()
    assert meter.read([image(0, 1000)], 0.0)["rate"] == 0.0
    assert meter.read([image(100, 1000)], 1.0)["rate"] == 100.0
    # Long after a burst it does not count any more.
    later = 1.0 + RATE_WINDOW + 1
    meter.read([image(100, 1000)], later)
    assert meter.read([image(100, 1000)], later + 0.5)["rate"] == 0.0


def test_a_total_is_unknown_if_one_image_does_not_say():
    progress = ProgressMeter().read([image(1, 10), image(2, None)], 0.0)
    assert (progress["done"], progress["total"]) == (3, None)
