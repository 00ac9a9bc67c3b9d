"""The daemon's events are those of `imgproto.events`, field by field."""

from __future__ import annotations

from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import pytest
from imgproto import events as proto
from imgproto.operations import OPERATIONS

from imgstored.create import events as of_making
from imgstored.events import notifications as of_the_store


def sent() -> dict[str, type[of_the_store.Event]]:
    return {
        each.kind: each
        for module in (of_the_store, of_making)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, of_the_store.Event) and each.kind
    }


def described() -> dict[str, Any]:
    documents = get_args(proto.EventDocument)
    return {get_args(get_type_hints(each)["event"])[0]: each for each in documents}


def as_document(hint: Any) -> Any:
    """The type that a field of a struct has on the wire."""
    if get_origin(hint) is tuple:
        return list[as_document(get_args(hint)[0])]
    if hint == tuple[str, ...] | None:
        return list[str] | None
    return proto.ImageProgress if hint is of_the_store.ImageProgress else hint


def fields(shape: Any) -> dict[str, Any]:
    hints = get_type_hints(shape)
    return {
        name: as_document(hint)
        for name, hint in hints.items()
        if name != "event" and get_origin(hint) is not ClassVar
    }


def test_none_is_missing():
    assert sent().keys() == described().keys()


@pytest.mark.parametrize("name", [*described()])
def test_the_fields_of_an_event(name):
    assert fields(sent()[name]) == fields(described()[name])


def test_the_fields_of_an_images_progress():
    assert fields(of_the_store.ImageProgress) == fields(proto.ImageProgress)


def test_an_operation_sends_each_event():
    assert {kind for each in OPERATIONS.values() for kind in each.events} == {*described().values()}
