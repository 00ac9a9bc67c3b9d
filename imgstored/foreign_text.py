"""Text from outside, made fit for a message, a log line or a terminal. Pure.

Whoever shows text of a server or a client hides secrets in it first, and cuts it then.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with `?` for each character that a terminal might obey: line ends, control characters."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def one_line(text: str | bytes) -> str:
    """The words of the text on one line, with one space between them, and printable; bytes are UTF-8."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return printable(" ".join(words.split()))


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and `…`: at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
