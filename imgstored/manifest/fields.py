"""Checks of a single field. Each check takes a field's name and its value, and yields the faults it finds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from imgstored.manifest.values import UUID, shown

#: IMGAPI's names (its documentation, "Errors").
FaultCode = Literal["MissingParameter", "Invalid"]


class Fault(Struct, frozen=True):
    """One thing that is wrong with a manifest."""

    field: str  #: a path such as `files[0].sha1`, fit to be shown
    code: FaultCode
    message: str = ""

    def as_wire(self) -> dict[str, str]:
        """As IMGAPI's error bodies have it: `message` only where there is one."""
        wire = {"field": self.field, "code": self.code}
        return {**wire, "message": self.message} if self.message else wire

    def __str__(self) -> str:
        """As imgadm prints it: `field (message)`, `field (MissingParameter)` or, for Invalid, `field`."""
        why = self.message or ("" if self.code == "Invalid" else self.code)
        return f"{self.field} ({why})" if why else self.field


Check = Callable[[str, Any], Iterator[Fault]]


def invalid(field: str, message: str = "") -> Fault:
    """The field is there, and wrong."""
    return Fault(field, "Invalid", message)


def given(value: object) -> bool:
    """True if a field is there. JSON's null says that it is not."""
    return value is not None


# -- scalars -------------------------------------------------------------------------------------------------


def text(limit: int = 1 << 20, pattern: str = "", what: str = "") -> Check:
    """A string of at most `limit` characters, all of it as `pattern`; `what` is the pattern in words."""
    compiled = re.compile(pattern) if pattern else None

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield invalid(field, "not a string")
        elif len(value) > limit:
            yield invalid(field, f"longer than {limit} characters")
        elif compiled is not None and not compiled.fullmatch(value):
            yield invalid(field, what)

    return check


def integer(least: int, most: int) -> Check:
    """A whole number within bounds; neither a boolean, which Python would count, nor 1.0."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield invalid(field, "not an integer")
        elif not least <= value <= most:
            yield invalid(field, f"not from {least} to {most}")

    return check


def flag(*texts: str) -> Check:
    """A boolean, or one of `texts`."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, bool) and not (isinstance(value, str) and value in texts):
            yield invalid(field, "neither true nor false")

    return check


def one_of(*choices: str) -> Check:
    """One of the strings."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str) or value not in choices:
            yield invalid(field, f"must be one of {', '.join(choices)}")

    return check


def either(first: Check, second: Check) -> Check:
    """A check that one of two checks passes; the faults are the first one's."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        faults = list(first(field, value))
        if faults and any(second(field, value)):
            yield from faults

    return check


uuid = text(36, UUID.pattern, "not a uuid in lower case")


def url(limit: int) -> Check:
    """An http or https URL with a host."""
    as_text = text(limit, r"[!-~]+", "not a URL")

    def check(field: str, value: Any) -> Iterator[Fault]:
        faults = list(as_text(field, value))
        yield from faults
        if not faults and not _is_http(value):
            yield invalid(field, "not an http or https URL")

    return check


def _is_http(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", re.ASCII)


def date(field: str, value: Any) -> Iterator[Fault]:
    """ISO 8601 in UTC, to the second or the millisecond."""
    if not isinstance(value, str):
        yield invalid(field, "not a string")
    elif not _DATE.fullmatch(value) or not _is_date(value):
        yield invalid(field, "not a date such as 2012-05-01T12:00:00Z or 2012-05-01T12:00:00.000Z")


def _is_date(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


# -- arrays and objects --------------------------------------------------------------------------------------


def array(each: Check) -> Check:
    """An array whose elements pass `each`."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield invalid(field, "not an array")
            return
        for place, element in enumerate(value):
            yield from each(f"{field}[{place}]", element)

    return check


def members(
    checks: Mapping[str, Check],
    *,
    required: tuple[str, ...] = (),
    unknown: Callable[[str, str], Fault] | None = None,
) -> Check:
    """An object with these members; `unknown` gives the fault for (object, another member), if it is one."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield invalid(field, "not an object")
            return
        for name in required:
            if not given(value.get(name)):
                yield Fault(_member(field, name), "MissingParameter")
        for name, member in value.items():
            if name in checks:
                if given(member):
                    yield from checks[name](_member(field, name), member)
            elif unknown is not None:
                yield unknown(field, shown(name))

    return check


def table(key: Check, value: Check, *, most: int, empty: bool = True) -> Check:
    """An object of at most `most` members with names of one kind and values of one kind."""

    def check(field: str, whole: Any) -> Iterator[Fault]:
        if not isinstance(whole, dict):
            yield invalid(field, "not an object")
            return
        if not whole and not empty:
            yield invalid(field, "empty")
        if len(whole) > most:
            yield invalid(field, f"more than {most} members")
            return
        for name, member in whole.items():
            path = _member(field, shown(name))
            yield from key(path, name)
            yield from value(path, member)

    return check


def any_of_types(*types: type) -> Check:
    """A value of one of the types."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, types):
            yield invalid(field, "of a type that is not allowed here")

    return check


def json_object(limit: int) -> Check:
    """An object whose JSON has at most `limit` characters."""

    def check(field: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield invalid(field, "not an object")
        elif len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) > limit:
            yield invalid(field, f"more than {limit} characters of JSON")

    return check


def _member(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name
