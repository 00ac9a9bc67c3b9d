"""Values of a manifest as imgadm, a JavaScript program, reads them: any of them as text, some as numbers.

Sources: ECMAScript's ToString and ToNumber, as far as values from JSON go.
"""

from __future__ import annotations

import json
import re
from typing import Final

#: Characters of one field that events, logs and lists show: IMGAPI's longest name.
MAX_SHOWN: Final = 1024

#: What stands for a field that is not there, as in imgadm's tables.
MISSING: Final = "-"

#: The largest integers that both languages write in the same way.
_PLAIN: Final = 1e21

_NUMERAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_MAX_NUMERAL: Final = 400


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
    text = text_of(value)
    if len(text) > MAX_SHOWN:
        text = text[: MAX_SHOWN - 1] + "…"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


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
