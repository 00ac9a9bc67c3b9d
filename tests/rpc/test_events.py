from __future__ import annotations

from typing import get_args

from imgproto.events import EventDocument
from imgproto.operations import OPERATIONS


def test_an_operation_sends_each_event():
    assert {kind for each in OPERATIONS.values() for kind in each.events} == {*get_args(EventDocument)}
