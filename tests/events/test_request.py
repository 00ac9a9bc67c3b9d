"""What a reader is told, and in which order."""

from __future__ import annotations

import pytest
import trio

from imgstored.errors import CancelledError, InternalError
from imgstored.events.notifications import ImageProgress, Note, Progress
from imgstored.events.request import RATE_WINDOW, ProgressMeter, Request


async def test_events_come_in_order_and_progress_only_the_newest():
    request = Request("test")
    request.emit(Note("a"))
    request.emit(Progress(1, 10, 0.0))
    request.emit(Progress(2, 10, 0.0))
    request.emit(Note("b"))
    request.end()
    assert [event async for event in request] == [Note("a"), Note("b"), Progress(2, 10, 0.0)]


async def test_the_first_end_stands():
    request = Request("test")
    request.end(CancelledError("first"))
    request.end(InternalError("second"))
    with pytest.raises(CancelledError, match="first"):
        await anext(request)


async def test_a_reader_waits_for_what_is_still_to_come(autojump_clock):
    request = Request("test")

    async def later() -> None:
        await trio.sleep(5)
        request.emit(Note("late"))
        request.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert [event async for event in request] == [Note("late")]
    assert trio.current_time() >= 5


class FixedLayer:
    """A layer that is as far as it is told."""

    def __init__(self, done: int, total: int | None) -> None:
        self.done, self.total = done, total

    def progress(self) -> ImageProgress:
        return ImageProgress("u", "n", "1", "downloading", self.done, self.total, 0)


def test_the_rate_is_that_of_the_last_seconds():
    meter = ProgressMeter()
    layer = FixedLayer(0, 1000)
    assert meter.read([layer], 0.0).rate == 0.0
    layer.done = 100
    assert meter.read([layer], 1.0).rate == 100.0
    # Long after a burst it does not count any more.
    later = 1.0 + RATE_WINDOW + 1
    meter.read([layer], later)
    assert meter.read([layer], later + 0.5).rate == 0.0


def test_a_total_is_unknown_if_one_image_does_not_say():
    progress = ProgressMeter().read([FixedLayer(1, 10), FixedLayer(2, None)], 0.0)
    assert (progress.done, progress.total) == (3, None)
