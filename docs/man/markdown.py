"""The part of Markdown that docs/configuration.md is written in. Pure: no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Block(NamedTuple):
    """A heading (its level, its words), a paragraph, a code block (its lines), or a table (its rows)."""

    kind: str  #: "heading", "paragraph", "code" or "table"
    words: str = ""
    level: int = 0
    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def blocks(markdown: str) -> Iterator[Block]:
    """The blocks of a text. A table's header and the line below it are no rows."""
    lines = iter(markdown.splitlines())
    for line in lines:
        if line.startswith("```"):
            yield Block("code", lines=tuple(iter(lambda: next(lines), "```")))
        elif heading := re.fullmatch(r"(#+) (.*)", line):
            yield Block("heading", heading[2], len(heading[1]))
        elif line.startswith("|"):
            table, after = _while(line, lines, "|")
            yield Block("table", rows=tuple(_cells(row) for row in table[2:]))
            assert not after, f"an empty line is missing before: {after}"
        elif line:
            words, _ = _while(line, lines, "")
            yield Block("paragraph", " ".join(words))


def _while(first: str, lines: Iterator[str], start: str) -> tuple[list[str], str]:
    """The lines up to an empty one or one that starts otherwise; that one, too."""
    taken = [first]
    for line in lines:
        if not line or not line.startswith(start):
            return taken, line
        taken.append(line)
    return taken, ""


def _cells(row: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1])
