"""A client that checks every result and event of the real daemon against the types in `imgproto`."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from imgctl import Client
from imgproto.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from imgproto.events import EventDocument


class CheckedClient(Client):
    """Raises `AssertionError` for what is not as the protocol says."""

    def exchange(
        self, method: str, params: Mapping[str, object], file: int | None
    ) -> Generator[EventDocument, None, Any]:
        operation = OPERATIONS[method]
        kinds = {name: each for each in operation.events for name in get_args(get_type_hints(each)["event"])}
        exchange = super().exchange(method, params, file)
        try:
            while True:
                try:
                    event = next(exchange)
                except StopIteration as end:
                    check(end.value, operation.result, method)
                    return end.value
                assert event["event"] in kinds, f"{method} sends {event['event']}"
                check(event, kinds[event["event"]], f"{method}: {event['event']}")
                yield event
        finally:
            exchange.close()


def check(value: object, hint: Any, where: str) -> None:
    """Whether a value that came over the socket is of a type of `imgproto`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is not None or NoneType not in arguments:
            (hint,) = (each for each in arguments if each is not NoneType)
            check(value, hint, where)
    elif origin is Literal:
        assert value in arguments, f"{where}: {value!r}"
    elif is_typeddict(hint) or origin in (list, dict):
        _check_items(value, hint, where)
    elif hint is not Any:
        # Numbers without a fraction are integers, and bool is no number.
        kinds = (int, float) if hint is float else (hint,)
        assert isinstance(value, kinds), f"{where}: {value!r}"
        assert hint is bool or not isinstance(value, bool), f"{where}: {value!r}"


def _check_items(value: Any, hint: Any, where: str) -> None:
    assert isinstance(value, get_origin(hint) or dict), f"{where}: {value!r}"
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        missing, extra = hint.__required_keys__ - value.keys(), value.keys() - hints.keys()
        assert not missing, f"{where} lacks {missing}"
        assert not extra, f"{where} has {extra}"
        for name in value:
            check(value[name], hints[name], f"{where}.{name}")
    elif get_origin(hint) is list:
        for number, item in enumerate(value):
            check(item, get_args(hint)[0], f"{where}[{number}]")
    else:
        for key, item in value.items():
            check(key, get_args(hint)[0], f"{where}: a key")
            check(item, get_args(hint)[1], f"{where}.{key}")
