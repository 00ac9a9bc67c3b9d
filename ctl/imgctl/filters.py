"""Filters of images, `field=value` on the command line. Pure: no I/O."""

from __future__ import annotations

from imgctl import javascript
from imgctl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Filter = Callable[[Mapping[str, Any]], bool]

#: Stands for a field that is not there, where None is JSON's null.
_MISSING = object()


def parse_filter(argument: str, *, words: bool = False) -> Filter:
    """Whether a row meets `field=value` (exactly), `field=true|false` or `field=~part`.

    With `words`, one without a sign is a part of the name. Raises `UsageError` for another form.
    """
    field, equals, wanted = argument.partition("=")
    if words and field and not equals:
        field, equals, wanted = "name", "=", f"~{argument}"
    if not field or not equals:
        raise UsageError(f'invalid filter: "{argument}" (must be of the form "field=value")')
    matches = _matcher(wanted)
    return lambda row: matches(lookup(row, field))


def meets_all(row: Mapping[str, Any], filters: Sequence[Filter]) -> bool:
    """Whether the row meets every filter."""
    return all(meets(row) for meets in filters)


def has_field(row: Mapping[str, Any], path: str) -> bool:
    """Whether the row has a field at a dotted path."""
    return lookup(row, path) is not _MISSING


def lookup(value: Any, path: str) -> Any:
    """The value at a dotted path, whose names may have dots themselves (`min_platform.7.0`)."""
    if isinstance(value, list):
        name, _, rest = path.partition(".")
        index = int(name) if name.isascii() and name.isdigit() and len(name) < 9 else len(value)
        if index >= len(value):
            return _MISSING
        return lookup(value[index], rest) if rest else value[index]
    if not hasattr(value, "keys"):
        return _MISSING
    if path in value:
        return value[path]
    at = path.find(".")
    while at >= 0:
        if path[:at] in value and (found := lookup(value[path[:at]], path[at + 1 :])) is not _MISSING:
            return found
        at = path.find(".", at + 1)
    return _MISSING


def _matcher(wanted: str) -> Callable[[Any], bool]:
    if wanted in ("true", "false"):
        return lambda value: value is (wanted == "true")
    if wanted.startswith("~"):
        part = wanted[1:]
        return lambda value: _contains(value, part)
    return lambda value: value is not _MISSING and value is not None and javascript.text(value) == wanted


def _contains(value: Any, part: str) -> bool:
    """Of an array it is an element, of anything else a part of its text."""
    if value is _MISSING or value is None or isinstance(value, dict):
        return False
    if isinstance(value, list):
        return any(javascript.text(item) == part for item in value)
    return part in javascript.text(value)
