"""What stands in the documents: their blocks of code, and the commands and outputs in them.

Blocks are fenced, and say what they are. In one of `console` a line `$ command` is run, lines `> ` behind it
belong to the command, and what follows up to the next one is its output. `<!-- not run: REASON -->` on the
line above a block keeps it from being run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: All documents by the names that they have from the top of the tree.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
#: A page with this comment begins without an image source.
NO_SOURCE = "<!-- session: no source -->"


#: Where `make demo-server` listens.
DEMO_SERVER = "http://127.0.0.1:8480"


def server_of(text: str) -> str:
    """The image server that a page names."""
    return DEMO_SERVER if DEMO_SERVER in text else "http://images.example.com"


class Block(NamedTuple):
    """A block of code, with where it begins (1 is the first line), and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A command of a session, and the lines that it is said to print; None where nothing is said."""

    place: str
    text: str
    output: str | None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    lines = PAGES[page].splitlines()
    found = []
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"( *)```(\w*)", lines[number])
        number += 1
        if fence is None:
            continue
        start = number
        while lines[number].strip() != "```":
            number += 1
        above = re.fullmatch(r" *<!-- not run: (.*) -->", lines[start - 2])
        text = "\n".join(line.removeprefix(fence[1]) for line in lines[start:number])
        found.append(Block(page, start + 1, fence[2], text, above[1] if above else None))
        number += 1
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console's block. Raises `ValueError` where it does not begin with one."""
    found: list[Command] = []
    for offset, line in enumerate(block.text.splitlines()):
        if line.startswith("$ "):
            found.append(Command(f"{block.page}:{block.line + offset}", line[2:], None))
        elif not found:
            raise ValueError(f"{block.place}: a console begins with `$ ` and a command")
        elif re.match(r">( |$)", line) and found[-1].output is None:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line[2:]}")
        else:
            before = "" if found[-1].output is None else f"{found[-1].output}\n"
            found[-1] = found[-1]._replace(output=before + line)
    return found


#: What is another one each time: dates, times, rates, who owns files, process ids.
_VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?"),
    (r"^\d{4}-\d\d-\d\d\b", r"\d{4}-\d\d-\d\d"),  # in a narrow history
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d", r"[A-Z][a-z]{2} [ \d]\d (?:\d\d:\d\d| \d{4})"),
    (r"\d+(?:\.\d+)? ?(?:KiB|MiB|GiB|B)/s", r"\d+(?:\.\d+)? ?(?:KiB|MiB|GiB|B)/s"),
    (r"\b\d+(?:\.\d+)? ?m?s\b", r"\d+(?:\.\d+)? ?m?s"),
    (r"\broot +root\b", r"\w+ +\w+"),
    (r"\bpid \d+", r"pid \d+"),
    (r"(?<=\S)  +(?=\S)", " +"),  # a table's columns are as wide as what the names stand for
)


def matches(shown: str, printed: str) -> bool:
    """Whether a page may show this for that: `...` is anything, on a line of its own any lines."""
    return (
        re.fullmatch("".join(map(_pattern, f"{shown}\n".splitlines(keepends=True))), f"{printed}\n")
        is not None
    )


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    varying = "|".join(f"({pattern})" for pattern, _ in _VARYING)
    made, at = "", 0
    for found in re.finditer(rf"\.\.\.|{varying}", line):
        made += re.escape(line[at : found.start()])
        made += ".*" if found.lastindex is None else _VARYING[found.lastindex - 1][1]
        at = found.end()
    return made + re.escape(line[at:])
