"""Colour, where people look at a terminal that has some."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

#: SGR parameters (ECMA-48, 8.3.117).
RED, GREEN, DIM = "31", "32", "2"


def has_colour(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal with colour whose user has not asked for none (https://no-color.org)."""
    if stream is None or os.environ.get("NO_COLOR"):
        return False
    return (os.environ.get("TERM") or "dumb") != "dumb" and stream.isatty()


def painted(text: str, style: str) -> str:
    """The text in a style, line by line, so that no style is left open where a line is cut off."""
    return "\n".join(f"\x1b[{style}m{line}\x1b[m" for line in text.split("\n"))
