from __future__ import annotations

import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.transfer.threaded import ThreadedIterator, threaded
from imgstored.transfer.watermark import Watermark
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Iterator


class Source:
    """Counts up from 0, and notes who asked for what and who closed it."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.asked = 0
        self.reached = threading.Condition()
        self.thread: threading.Thread | None = None
        self.closed_by: threading.Thread | None = None

    def __iter__(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        for number in range(self.stop):
            with self.reached:
                self.asked += 1
                self.reached.notify_all()
            yield number

    def close(self) -> None:
        self.closed_by = threading.current_thread()

    def wait_until_asked(self, times: int) -> None:
        with self.reached:
            assert self.reached.wait_for(lambda: self.asked >= times, timeout=5)


@given(items=st.lists(st.integers(), max_size=50), depth=st.integers(1, 5))
def test_passes_on_all_items_in_order(items: list[int], depth: int) -> None:
    with no_threads_left(), threaded(items, depth) as ahead:
        assert list(ahead) == items
        assert list(ahead) == []


def test_runs_in_another_thread_which_also_closes_the_upstream() -> None:
    source = Source(3)
    with threaded(source, 2) as ahead:
        assert list(ahead) == [0, 1, 2]
    assert source.thread is not threading.current_thread()
    assert source.closed_by is source.thread


def test_runs_no_further_ahead_than_its_depth() -> None:
    source = Source(100)
    with threaded(source, 3) as ahead:
        # Three that wait, and one that it holds in its hand.
        source.wait_until_asked(4)
        assert next(ahead) == 0
        source.wait_until_asked(5)
        with source.reached:
            assert not source.reached.wait_for(lambda: source.asked > 5, timeout=0.05)


def test_raises_what_the_upstream_raised_with_its_traceback() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("nothing there")

    with no_threads_left(), threaded(failing(), 2) as ahead:
        assert next(ahead) == 1
        with pytest.raises(LookupError, match="nothing there") as caught:
            next(ahead)
        assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        with pytest.raises(LookupError):
            next(ahead)


def test_leaving_early_stops_the_thread_and_closes_the_upstream() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def leave_early() -> None:
        with threaded(endless(), 2) as ahead:
            next(ahead)
            raise KeyError("consumer")

    with no_threads_left(), pytest.raises(KeyError):
        leave_early()
    assert closed.is_set()


def test_an_upstream_that_waits_ends_when_it_is_released() -> None:
    watermark = Watermark()

    def waiting() -> Iterator[int]:
        yield watermark.wait(0)

    with no_threads_left(), threaded(waiting(), 2):
        watermark.fail(ValueError("cancelled"))


def test_closing_wakes_a_consumer_in_another_thread() -> None:
    watermark = Watermark()

    def waiting() -> Iterator[int]:
        yield watermark.wait(0)

    with no_threads_left(), ThreadPoolExecutor(2) as executor:
        ahead = ThreadedIterator(waiting(), 2, executor)
        consumer = executor.submit(list, ahead)
        watermark.fail(ValueError("cancelled"))
        ahead.close()
        ahead.close()
        # Whether it saw the failure or the end is a matter of who was first; what counts is that it ended.
        assert consumer.exception(timeout=5) is None or isinstance(consumer.exception(), ValueError)


def test_closed_before_its_thread_was_free_it_never_starts() -> None:
    source = Source(3)
    busy = threading.Event()
    with no_threads_left(), ThreadPoolExecutor(1) as executor:
        executor.submit(busy.wait)
        ahead = ThreadedIterator(source, 2, executor)
        ahead.close()
        busy.set()
        assert list(ahead) == []
    assert source.asked == 0
