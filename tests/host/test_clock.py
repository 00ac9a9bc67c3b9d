"""Ages by a wall clock that may be wrong."""

from __future__ import annotations

import time

from imgstored.host.clock import Ages


def test_a_time_of_the_future_counts_from_when_it_was_seen(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    future, ages = time.time() + 1e6, Ages()
    assert not ages.is_over("one", future, 60)
    now[0] += 61
    assert ages.is_over("one", future, 60)
    # The same thing anew, under a clock that is still wrong.
    assert not ages.is_over("one", future + 5, 60)
    now[0] += 61
    assert ages.is_over("one", future + 5, 60)
    assert not ages.is_over("two", time.time() - 59, 60)
    assert ages.is_over("two", time.time() - 61, 60)
