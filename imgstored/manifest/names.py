"""The uuid that names an image, and how text that is not to be trusted is shown in a message."""

from __future__ import annotations

import re
from typing import Any

from imgstored.errors import InvalidUUIDError

#: As imgadm has it: lower case only, no particular version or variant of RFC 9562.
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: Characters of foreign text that a message shows.
_SHOWN = 64


def check_uuid(text: object) -> str:
    """The text, if it is a uuid; otherwise raises `InvalidUUIDError`."""
    if isinstance(text, str) and UUID.fullmatch(text):
        return text
    raise InvalidUUIDError(shown(text) if isinstance(text, str) else f"({type(text).__name__})")


def in_lower_case(value: Any) -> Any:
    """A uuid that a manifest writes in upper case, in lower case (RFC 9562, 4); any other value as it is."""
    if isinstance(value, str) and value.isascii() and UUID.fullmatch(lower := value.lower()):
        return lower
    return value


def shown(text: str) -> str:
    """The text for messages: one line, nothing that a terminal would obey, and not too long."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in short)
