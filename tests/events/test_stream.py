"""Every subscriber hears what it subscribed to, once and in order."""

from __future__ import annotations

import pytest

from imgstored.errors import CancelledError, DownloadError
from imgstored.events.request import ClientRequest
from imgstored.events.stream import (
    Action,
    CacheHit,
    Ended,
    EventStream,
    ImportEvent,
    Requester,
    Started,
    outcome_of,
)
from tests.support.events import Note, Progress

CLIENT = Requester("client", 1000)


def action() -> Action:
    return Action("import", "u", "n", "1", "zones")


def test_events_of_one_action_and_of_all():
    stream, one, other = EventStream(), action(), action()
    everything, of_one = [], []
    stream.subscribe(everything.append)
    stream.subscribe(of_one.append, one)
    events = [Started(one, CLIENT), Started(other, CLIENT), CacheHit("joined"), Ended(one, "installed")]
    for event in events:
        stream.publish(event)
    assert everything == events
    assert of_one == [events[0], events[3]]


def test_two_actions_are_never_equal():
    assert action() != action()


def test_who_unsubscribes_hears_no_more_and_may_do_so_twice():
    stream, one, heard = EventStream(), action(), []
    stream.subscribe(heard.append, one)
    stream.subscribe(heard.append)
    for _ in range(2):
        stream.unsubscribe(heard.append, one)
        stream.unsubscribe(heard.append)
    stream.publish(Started(one, CLIENT))
    assert heard == []


def test_a_subscription_ends_with_its_action():
    stream, one, heard = EventStream(), action(), []
    assert stream.subscribe(heard.append, one)
    assert not stream.subscribe(heard.append, one)
    stream.publish(Ended(one, "failed"))
    stream.publish(ImportEvent(one, Note("too late")))
    assert heard == [Ended(one, "failed")]


def test_a_listener_that_fails_keeps_no_other_from_hearing():
    stream, heard = EventStream(), []

    def fail(_):
        raise ZeroDivisionError

    stream.subscribe(fail)
    stream.subscribe(heard.append)
    stream.publish(CacheHit("installed"))
    assert heard == [CacheHit("installed")]


async def test_a_flush_waits_for_all_who_write_down():
    stream, written = EventStream(), []

    async def flush():
        written.append(True)

    for _ in range(2):
        stream.subscribe([].append, flush=flush)
    stream.subscribe([].append)
    await stream.flush()
    assert len(written) == 2


async def test_a_request_hears_of_imports_only():
    request, one = ClientRequest("test"), action()
    for event in (
        Started(one, CLIENT),
        ImportEvent(one, Note("a")),
        ImportEvent(one, Progress(1, 2, 0.0)),
        Ended(one, "installed"),
    ):
        request.hear(event)
    request.end()
    assert [event async for event in request] == [Note("a"), Progress(1, 2, 0.0)]


@pytest.mark.parametrize(
    ("error", "stopping", "outcome"),
    [
        (None, True, "installed"),
        (DownloadError("x"), True, "failed"),
        (CancelledError("x"), False, "cancelled"),
        (CancelledError("x"), True, "interrupted"),
    ],
)
def test_outcomes(error, stopping, outcome):
    assert outcome_of(error, "installed", stopping=stopping) == outcome
