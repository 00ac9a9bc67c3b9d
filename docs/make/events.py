"""docs/events.md, from the events in ctl/imgproto/events.py. Pure: no I/O."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from imgproto.events import (
    CreationEventDocument,
    ImageProgress,
    NumberedEvent,
    NumberedName,
    StoreEventDocument,
)
from imgproto.operations import OPERATIONS

_HEAD = """\
# Events

While {operations} run,
[the socket](protocol.md) sends notifications `event` with a map: `id` (the request), `event` (the name), and
the fields below. Commands with `--json`, such as `imgctl import --json`, print the same maps, one per line,
without `id`. Later versions may add names and fields: ignore those that you do not know. This page is made
from the code.
"""
_NUMBERED = """
## Numbered events

The operation `events` sends these, `imgctl events` prints them, [hooks](operating.md#hooks) get them. {said}

Names: {names}.

Fields, those that the event has: {fields}.
"""
_TABLE = "| event | when | fields |\n| --- | --- | --- |\n"

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", NoneType: "nil"}


def page() -> str:
    """The page."""
    shapes = "".join(
        f"\n## {title}\n\n{_TABLE}{''.join(map(_row, get_args(events)))}"
        for title, events in (
            ("Imports and what is installed", StoreEventDocument),
            ("Creating images", CreationEventDocument),
        )
    )
    names = ", ".join(f"`{name}`" for name in get_args(NumberedName))
    shapes += _NUMBERED.format(said=_sentence(NumberedEvent), names=names, fields=_fields(NumberedEvent))
    image = f"{_sentence(ImageProgress)} Fields: {_fields(ImageProgress)}."
    said = f"\n## *image* of `progress`\n\n{image}\n"
    *most, last = (f"`{name}`" for name, each in OPERATIONS.items() if each.events)
    return _HEAD.format(operations=f"{', '.join(most)} and {last}") + shapes + said


def kinds() -> list[str]:
    """The names of all events of the page."""
    return [_name(event) for event in (*get_args(StoreEventDocument), *get_args(CreationEventDocument))]


def _name(event: Any) -> str:
    name: str
    (name,) = get_args(get_type_hints(event)["event"])
    return name


def _row(event: Any) -> str:
    return f"| `{_name(event)}` | {_sentence(event)} | {_fields(event)} |\n"


def _sentence(shape: type) -> str:
    return " ".join((inspect.getdoc(shape) or "").split()).replace("None", "nil").replace("|", r"\|")


def _fields(shape: Any) -> str:
    hints = {name: type_ for name, type_ in get_type_hints(shape).items() if name != "event"}
    return ", ".join(f"`{name}` ({_words(type_)})" for name, type_ in hints.items()) or "none"


def _words(type_: Any) -> str:
    if type_ in _WORDS:
        return _WORDS[type_]
    match get_origin(type_):
        case origin if origin in (Union, UnionType):
            return " or ".join(map(_words, get_args(type_)))
        case origin if origin is Literal:
            return ", ".join(f"`{value}`" for value in get_args(type_))
        case origin if origin is list:
            return f"array of {_words(get_args(type_)[0])}"
        case origin if origin is dict:
            return "map"
    assert is_typeddict(type_), f"no words for {type_}"
    return "*image*" if type_ is ImageProgress else "map"
