"""The parameters of a request, checked as they are taken out. Pure: no I/O."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from imgstored.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def printable(text: str, limit: int) -> str:
    """What a client wrote, fit for a log or a terminal: its first `limit` characters that can be printed."""
    return "".join(islice(filter(str.isprintable, text), limit)).strip()


class Params:
    """Each getter raises `UsageError` with the parameter's name when it is missing or of another type.

    A parameter that is nil counts as left out.
    """

    def __init__(self, method: str, values: Mapping[str, Any]) -> None:
        self._method = method
        self._values = values

    def check_known(self, known: Collection[str]) -> None:
        """Raises for a parameter that the method does not have: what it was meant to do would not be done."""
        for name in self._values:
            if name not in known:
                raise UsageError(
                    f'{self._method}: unknown parameter "{printable(name, 40)}"',
                    hint=f"it has: {', '.join(sorted(known)) or 'none'}",
                )

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.optional_text(name)
        if value is None:
            raise self._missing(name)
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None when it is left out."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def texts(self, name: str) -> list[str]:
        """An array of strings that must be there; may be empty."""
        value = self.optional_texts(name)
        if value is None:
            raise self._missing(name)
        return value

    def optional_texts(self, name: str) -> list[str] | None:
        """An array of strings, or None when it is left out."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "an array of strings")
        return list(value)

    def flag(self, name: str) -> bool:
        """A boolean, False when it is left out."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return bool(value)

    def number(self, name: str) -> int:
        """An integer that must be there."""
        value = self.optional_number(name)
        if value is None:
            raise self._missing(name)
        return value

    def optional_number(self, name: str) -> int | None:
        """An integer, or None when it is left out."""
        value = self._values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._wrong(name, "an integer")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A map that must be there; its keys are strings at every level, its values what JSON could say."""
        value = self._values.get(name)
        if value is None:
            raise self._missing(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "a map")
        return dict(value)

    def mappings(self, name: str) -> list[dict[str, Any]]:
        """An array of maps that must be there; may be empty. As for `mapping`."""
        value = self._values.get(name)
        if value is None:
            raise self._missing(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(name, "an array of maps")
        return [dict(item) for item in value]

    def _missing(self, name: str) -> UsageError:
        return UsageError(f'{self._method}: the parameter "{name}" is missing')

    def _wrong(self, name: str, expected: str) -> UsageError:
        return UsageError(f'{self._method}: the parameter "{name}" must be {expected}')
