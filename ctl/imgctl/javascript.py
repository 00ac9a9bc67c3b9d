"""How imgadm, a JavaScript program, reads values as numbers and as text; sorting and filtering need it. Pure.

Sources: ECMAScript's ToNumber and ToString, as far as values from JSON go.
"""

from __future__ import annotations

import math
from typing import Any

_PREFIXED = {"0x": 16, "0o": 8, "0b": 2}
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
    if not digits.isascii() or "_" in digits:
        return None
    try:
        if (base := _PREFIXED.get(digits[:2].lower())) is not None:
            return _float(int(digits[2:], base)) if digits[2:].isalnum() else None
        if digits.lstrip("+-").lower() in ("infinity", "inf", "nan"):
            return {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}.get(digits)
        return float(digits)
    except ValueError:
        return None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number_text(value: int | float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < _PLAIN:
        return str(int(value))
    return str(value)
