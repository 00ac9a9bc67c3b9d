from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.http.retry import Backoff, retry_after


def test_delays_double_up_to_the_most():
    backoff = Backoff(first=1, most=10)
    assert [backoff.delay(failures, lambda: 1.0) for failures in (1, 2, 3, 4, 5, 99)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e9))
def test_a_delay_is_within_bounds(failures, value, asked):
    delay = Backoff(first=0.5, most=30).delay(failures, lambda: value, asked)
    assert 0.25 <= delay <= 30
    assert delay >= min(30, asked or 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "9" * 5000}, 999_999_999),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30 GMT", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, 30),
        ({"retry-after": "Tue, 24 Nov 2026 08:00:00 GMT", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, 0),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30 GMT"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


@given(st.text(max_size=60), st.text(max_size=60))
def test_retry_after_of_anything_is_seconds_or_none(value, date):
    seconds = retry_after({"retry-after": value, "date": date})
    assert seconds is None or seconds >= 0
