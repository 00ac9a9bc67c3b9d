"""Text in roff with the man macros that groff and mandoc share. Pure: no I/O."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What roff takes for its own, or prints as a typographic sign where ASCII is meant.
_SIGNS = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}


def text(words: str) -> str:
    """Text as roff prints it, sign by sign."""
    return "".join(_SIGNS.get(c, c if c.isascii() else f"\\[u{ord(c):04X}]") for c in words)


def bold(words: str) -> str:
    """Text in bold."""
    return f"\\fB{text(words)}\\fR"


def inline(markdown: str) -> str:
    """A paragraph with Markdown's `code`, **bold** and [links](elsewhere), in lines of at most 80."""
    made, at = "", 0
    for mark in re.finditer(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]*\)", markdown):
        code, strong, link = mark.groups()
        made += text(markdown[at : mark.start()]) + (text(link) if link else bold(code or strong))
        at = mark.end()
    lines = textwrap.wrap(made + text(markdown[at:]), 80, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)


def header(title: str, section: int, date: str, package: str) -> list[str]:
    """The first line of a page."""
    return [f'.TH {text(title.upper())} {section} {date} "{text(package)}"']


def heading(words: str) -> list[str]:
    """A section."""
    return [f'.SH "{text(words.upper())}"']


def subheading(words: str) -> list[str]:
    """A section of a section."""
    return [f'.SS "{text(words)}"']


def paragraph(words: str) -> list[str]:
    """A paragraph of `inline` text."""
    return [".PP", inline(words)]


def item(tag: str, words: str) -> list[str]:
    """A tag that is roff already, and a paragraph of `inline` text beside or below it."""
    return [".TP", tag, inline(words)]


def literal(lines: list[str]) -> list[str]:
    """Lines as they are, indented."""
    return [".PP", ".RS 4", ".nf", *(_literal_line(line) for line in lines), ".fi", ".RE"]


def _literal_line(line: str) -> str:
    return rf"\&{text(line)}" if not line or line.startswith(".") else text(line)


def page(lines: Iterable[str]) -> str:
    """The lines of a page; a heading begins a paragraph by itself."""
    kept: list[str] = []
    for line in lines:
        if line != ".PP" or not kept[-1].startswith((".SH", ".SS")):
            kept.append(line)
    return "\n".join([*kept, ""])
