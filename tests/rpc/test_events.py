from __future__ import annotations

from typing import get_args

from imgproto.events import EventDocument, NumberedEvent
from imgproto.operations import OPERATIONS


def test_an_operation_sends_each_event():
    sent = {kind for each in OPERATIONS.values() for kind in each.events}
    # `events` sends what has a number, and no other operation does.
    assert sent == {*get_args(EventDocument), NumberedEvent}
