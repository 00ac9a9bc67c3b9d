"""Values of a manifest: uuids, and any value as text or as a number.

The last two are as imgadm, a JavaScript program, reads values.
Sources: ECMAScript's ToString and ToNumber, as far as values from JSON go.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import InvalidUUIDError
from imgstored.foreign_text import printable, shortened

if TYPE_CHECKING:
    from datetime import datetime

#: As imgadm has it: lower case only, no particular version or variant of RFC 9562.
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: Characters of foreign text that a message shows.
_MAX_QUOTED = 64


#: The owner of an image that belongs to nobody (RFC 9562, 5.9).
NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"


def is_uuid(text: str) -> bool:
    """True if the text is a uuid as imgadm writes it."""
    return UUID.fullmatch(text) is not None


def check_uuid(text: object) -> str:
    """The text, if it is a uuid; otherwise raises `InvalidUUIDError`."""
    if isinstance(text, str) and is_uuid(text):
        return text
    raise InvalidUUIDError(shown(text) if isinstance(text, str) else f"({type(text).__name__})")


def in_lower_case(value: Any) -> Any:
    """A uuid that a manifest writes in upper case, in lower case (RFC 9562, 4); any other value as it is."""
    if isinstance(value, str) and value.isascii() and UUID.fullmatch(lower := value.lower()):
        return lower
    return value


def shown(text: str) -> str:
    """The text for messages: one line, nothing that a terminal would obey, and not too long."""
    return printable(shortened(text, _MAX_QUOTED))


#: Characters of one field that events, logs and lists show: IMGAPI's longest name.
MAX_SHOWN: Final = 1024

#: What stands for a field that is not there, as in imgadm's tables.
MISSING: Final = "-"

#: The largest integers that both languages write in the same way.
_PLAIN: Final = 1e21

_NUMERAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_MAX_NUMERAL: Final = 400


def timestamp(moment: datetime) -> str:
    """A moment in UTC as imgadm writes it: 2026-01-31T12:00:00.000Z."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_of(value: object) -> str:
    """A field as text: a string as it is, `-` where there is none, arrays and objects as JSON."""
    match value:
        case str():
            return value
        case None:
            return MISSING
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < _PLAIN:
            return str(int(value))
        case int() | float():
            return str(value)
        case _:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def shown_text(value: object) -> str:
    """A field for people: one line, nothing that a terminal would obey, at most `MAX_SHOWN` characters."""
    return printable(shortened(text_of(value), MAX_SHOWN))


def number(value: object) -> int | float | None:
    """A number, or the number that a text says; None for everything else, and for true and false."""
    match value:
        case bool():
            return None
        case int() | float():
            return value
        case str():
            digits = value.strip()
            if len(digits) > _MAX_NUMERAL or not _NUMERAL.fullmatch(digits):
                return None
            return int(digits) if digits.isdigit() else float(digits)
        case _:
            return None


def whole_number(value: object) -> int | None:
    """As `number`, where that has no fraction: 5, 5.0 and "5"."""
    found = number(value)
    if isinstance(found, float):
        return int(found) if found.is_integer() else None
    return found
