"""Maps a name or a version to exactly one safe path component.

| in the name                            | in the path                                                   |
| -------------------------------------- | ------------------------------------------------------------- |
| `/`, `%`, control characters, NUL,     | `%XX` for each of their bytes in UTF-8                        |
| surrogates without their other half    |                                                               |
| the whole name is `.` or `..`          | `%2E`, `%2E%2E`                                               |
| the name is empty                      | `%`                                                           |
| longer than 255 bytes when encoded     | its beginning, `%~`, and 32 hex digits of its SHA-256         |
| anything else                          | itself, in UTF-8                                              |

Different names have different components: a `%` that comes from a name is followed by 25.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

#: POSIX's NAME_MAX on every file system that matters, in bytes.
MAX_COMPONENT = 255

_DIGEST_DIGITS = 32
#: Names that need no look at each of their characters: most of them.
_PLAIN = re.compile(r"[A-Za-z0-9._-]*")
#: Control characters, and surrogates that have lost their other half (which UTF-8 cannot say).
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cs"})


def component(name: str) -> bytes:
    """The component of a path for the name: 1 to 255 bytes, never `.` or `..`, without `/` and NUL."""
    if not name:
        return b"%"
    if name in {".", ".."}:
        return b"%2E" * len(name)
    if len(name) <= MAX_COMPONENT and _PLAIN.fullmatch(name):
        return name.encode("ascii")
    pieces = [_piece(character) for character in name]
    if sum(map(len, pieces)) <= MAX_COMPONENT:
        return b"".join(pieces)
    return _shortened(name, pieces)


def _piece(character: str) -> bytes:
    data = character.encode("utf-8", "surrogatepass")
    if character in "/%" or unicodedata.category(character) in _ESCAPED_CATEGORIES:
        return b"".join(b"%%%02X" % byte for byte in data)
    return data


def _shortened(name: str, pieces: list[bytes]) -> bytes:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    mark = b"%~" + digest.encode("ascii")
    room = MAX_COMPONENT - len(mark)
    kept = bytearray()
    for piece in pieces:
        if len(kept) + len(piece) > room:
            break
        kept += piece
    return bytes(kept) + mark
