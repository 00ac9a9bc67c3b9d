"""imgadm's JavaScript conversions of values to numbers and text, for sorting and filtering. Pure: no I/O.

Sources: ECMAScript's ToNumber and ToString, as far as values from JSON go.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREFIXED = {"0x": 16, "0o": 8, "0b": 2}
#: What decimal numbers are made of: most text begins or ends with something else, and is none at first sight.
_NUMERALS = "0123456789+-.eE"
_INFINITIES = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}
#: The largest integers that both languages write in the same way.
_PLAIN = 1e21


def number(value: Any) -> float | None:
    """`Number(value)`; None where that is NaN. Missing values are no numbers here, not 0."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return None if value != value else _float(value)
    if isinstance(value, str):
        return _number_of_text(value.strip())
    return None


def text(value: Any) -> str:
    """`String(value)`."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number_text(value)
    if isinstance(value, list):
        return ",".join("" if item is None else text(item) for item in value)
    return "[object Object]"


def _number_of_text(digits: str) -> float | None:
    if not digits:
        return 0.0
    try:
        if not digits.strip(_NUMERALS):
            return float(digits)
        if digits[:2].lower() in _PREFIXED and digits.isascii() and digits[2:].isalnum():
            return _float(int(digits[2:], _PREFIXED[digits[:2].lower()]))
    except ValueError:
        return None
    return _INFINITIES.get(digits)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number_text(value: int | float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < _PLAIN:
        return str(int(value))
    return str(value)
