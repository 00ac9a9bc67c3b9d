"""What a reader gets, and in which order."""

from __future__ import annotations

import pytest
import trio

from imgstored.errors import CancelledError, InternalError
from imgstored.events.request import ClientRequest
from tests.support.events import Note, Progress


async def test_events_come_in_order_and_progress_only_the_newest():
    request = ClientRequest("test")
    request.emit(Note("a"))
    request.emit(Progress(1, 10, 0.0))
    request.emit(Progress(2, 10, 0.0))
    request.emit(Note("b"))
    request.end()
    assert [event async for event in request] == [Note("a"), Note("b"), Progress(2, 10, 0.0)]


async def test_the_first_end_stands():
    request = ClientRequest("test")
    request.end(CancelledError("first"))
    request.end(InternalError("second"))
    with pytest.raises(CancelledError, match="first"):
        await anext(request)


async def test_a_reader_waits_for_what_is_still_to_come(autojump_clock):
    request = ClientRequest("test")

    async def later() -> None:
        await trio.sleep(5)
        request.emit(Note("late"))
        request.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert [event async for event in request] == [Note("late")]
    assert trio.current_time() >= 5
