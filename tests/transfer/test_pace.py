from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from imgstored.transfer.pace import Pace


def pace(silence: float = 10, rate: int = 100, window: float = 60) -> Pace:
    return Pace(silence, rate, window, started=1000)


def test_silence_from_the_start() -> None:
    watch = pace()
    assert watch.fault(1009.9, 0) is None
    assert watch.fault(1010, 0) == "the server sent nothing for 10 s"


def test_silence_counts_from_the_last_byte() -> None:
    watch = pace()
    assert watch.fault(1009, 5000) is None
    assert watch.fault(1018, 5000) is None
    assert watch.fault(1019, 5000) == "the server sent nothing for 10 s"


def test_a_drip_is_too_slow() -> None:
    watch = pace()
    faults = [watch.fault(1000.0 + second, second) for second in range(1, 61)]
    assert faults == [None] * 59 + ["the server sends less than 100 bytes a second"]


def test_each_window_counts_by_itself() -> None:
    watch = pace(silence=1000)
    assert watch.fault(1060, 1_000_000) is None
    assert watch.fault(1100, 1_000_000) is None
    assert watch.fault(1120, 1_000_001) == "the server sends less than 100 bytes a second"


def test_without_a_rate_a_drip_will_do() -> None:
    watch = pace(rate=0)
    assert [watch.fault(1000.0 + second, second) for second in range(1, 200)] == [None] * 199


@given(steps=st.lists(st.tuples(st.floats(0.1, 5), st.integers(1000, 10_000)), max_size=50))
def test_a_server_that_is_fast_enough_is_left_alone(steps: list[tuple[float, int]]) -> None:
    watch = pace()
    times = accumulate((seconds for seconds, _ in steps), initial=1000.0)
    sizes = accumulate((size for _, size in steps), initial=0)
    assert all(watch.fault(now, fetched) is None for now, fetched in zip(times, sizes, strict=True))
