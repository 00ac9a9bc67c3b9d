"""How an image comes of late, by numbers alone."""

from __future__ import annotations

from typing import Any

import pytest

from imgstored.imports.progress import ALMOST, EVERY, WINDOW, Gauge, Reading, Sample, summed_up
from tests.support.events import ImageProgress


def sample(
    done: int = 0,
    consumed: int = 0,
    total: int | None = 1000,
    *,
    before: int = 0,
    verified_first: bool = False,
    **spent: Any,
) -> Sample:
    """`before` are bytes that were there when the import began."""
    return Sample(done, max(0, done - before), consumed, total, spent, verified_first)


def test_nothing_is_known_at_the_start() -> None:
    assert Gauge().read(sample(), 5.0) == Reading(0.0, None, None, 0.0)
    gauge = Gauge()
    gauge.sample(sample(), 5.0)
    assert gauge.read(sample(), 5.0) == Reading(0.0, None, None, 0.0)


def test_a_download() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    reading = gauge.read(sample(done=200, consumed=190, network=1.9, decompress=0.1), 2.0)
    assert reading == Reading(100.0, "network", 8.0, 0.2)


def test_what_is_there_has_yet_to_be_received() -> None:
    gauge = Gauge()
    gauge.sample(sample(done=1000, consumed=100, pool=1.0), 10.0)
    reading = gauge.read(sample(done=1000, consumed=150, pool=2.0), 11.0)
    assert reading == Reading(0.0, "pool", 17.0, 0.15)


def test_the_slower_one_of_both_says_how_long() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    reading = gauge.read(sample(done=500, consumed=100, pool=1.0), 1.0)
    assert (reading.eta, reading.fraction) == (9.0, 0.1)


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


# -- how far it is -------------------------------------------------------------------------------------------


def test_no_image_is_whole_before_it_is_installed() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    assert gauge.read(sample(done=1000, consumed=1000, pool=1.0), 1.0).fraction == ALMOST


def test_what_was_there_counts_for_how_far_it_is_and_not_for_how_fast() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    half = sample(done=500, before=500, network=0.1)
    assert gauge.read(half, 0.1).fraction == 0.5
    reading = gauge.read(half, 1.0)
    assert (reading.rate, reading.eta, reading.fraction) == (0.0, None, 0.5)
    reading = gauge.read(sample(done=600, consumed=600, before=500, network=1.0, pool=0.2), 2.0)
    assert (reading.rate, reading.eta, reading.fraction) == (50.0, 8.0, 0.6)


def test_a_pool_that_is_slower_than_the_download_says_how_far_it_is() -> None:
    """As it was seen: 42 % of the bytes were there, and most of the time was still to come."""
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    seen = []
    for second in range(1, 21):
        now = sample(done=min(1000, 100 * second), consumed=50 * second, pool=float(second))
        reading = gauge.read(now, second)
        seen.append((reading.fraction, reading.eta))
        gauge.sample(now, second)
    assert seen[:-1] == [
        (pytest.approx(second / 20, abs=1e-4), pytest.approx(20 - second)) for second in range(1, 20)
    ]
    assert seen[-1] == (ALMOST, None)


def test_what_is_verified_first_comes_twice() -> None:
    """The pool begins when all is there: both take their time, one after the other."""
    gauge = Gauge()
    gauge.sample(sample(verified_first=True), 0.0)
    seen = []
    for second in range(1, 16):
        done, consumed = min(1000, 100 * second), 200 * max(0, second - 10)
        now = sample(done, consumed, verified_first=True, checksum=float(second), pool=consumed / 200)
        reading = gauge.read(now, second, usual=1 / 200)
        seen.append((reading.fraction, reading.eta))
        gauge.sample(now, second)
    assert seen[:-1] == [
        (pytest.approx(second / 15, abs=1e-4), pytest.approx(15 - second)) for second in range(1, 15)
    ]


def test_a_small_step_back_is_not_shown_and_a_large_one_is() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    assert gauge.read(sample(done=500, consumed=500, pool=1.0), 1.0).fraction == 0.5
    assert gauge.read(sample(done=500, consumed=480, pool=1.0, network=1.9), 2.0).fraction == 0.5
    assert gauge.read(sample(done=500, consumed=100, pool=2.0), 2.0).fraction == 0.1


def test_what_begins_anew_is_at_its_beginning() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    gauge.sample(sample(done=30, consumed=30, pool=0.1), 1.0)
    assert gauge.read(sample(done=30, consumed=30, pool=0.1), 1.0).fraction == 0.03
    gauge.sample(sample(), 2.0)
    assert gauge.read(sample(), 2.0).fraction == 0.0


def test_an_image_waits_for_its_origin() -> None:
    gauge = Gauge()
    gauge.sample(sample(), 0.0)
    reading = gauge.read(sample(done=500, network=1.0, origin=1.0), 1.0, usual=0.002, origin=30.0)
    assert reading.eta == 32.0
    assert gauge.read(sample(done=500, network=1.0, origin=1.0), 1.0, origin=None).eta is None


# -- several images ------------------------------------------------------------------------------------------


def image(done: int, total: int | None, **known: Any) -> ImageProgress:
    return ImageProgress("u", "n", "1", known.pop("phase", "downloading"), done, total, 0, **known)


def test_a_total_is_unknown_if_one_image_does_not_say() -> None:
    progress = summed_up([image(1, 10, fraction=0.1, eta=3.0), image(2, None)])
    assert (progress["done"], progress["total"]) == (3, None)
    assert (progress["fraction"], progress["eta"]) == (None, None)


def test_the_sum_of_several() -> None:
    ready = image(100, 100, fraction=1.0, phase="installed")
    slow = image(100, 100, fraction=0.5, eta=30.0)
    fast = image(0, 200, fraction=0.0, eta=4.0, rate=50.0)
    progress = summed_up([ready, slow, fast])
    assert (progress["rate"], progress["fraction"], progress["eta"]) == (50.0, 0.375, 30.0)


def test_what_waits_for_its_turn_has_yet_to_come() -> None:
    first, second = image(0, 100, fraction=0.0, eta=2.0, rate=50.0), image(0, 100, fraction=0.0)
    assert summed_up([first, second])["eta"] == 4.0


def test_what_failed_is_not_waited_for() -> None:
    failed = image(10, 100, phase="failed")
    assert summed_up([failed, image(50, 100, fraction=0.5)])["fraction"] == 0.5


def test_nothing_is_under_way() -> None:
    progress = summed_up([])
    assert (progress["fraction"], progress["eta"], progress["rate"]) == (None, None, 0.0)
