"""What a terminal shows of what a program writes, and a recording of it as a picture that moves. Pure."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Control sequences of ECMA-48: moves and erasures count here, styles do not.
_PARTS: Final = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|[\r\n\b]|\x1b.|[^\x1b\r\n\b]")

#: Pixels of the picture: a character, a line, the rim; and seconds that the last frame stays.
_WIDE, _HIGH, _RIM, _SIZE = 8.0, 18, 14, 13
_REST: Final = 4.0


class Frame(NamedTuple):
    """What was on the screen from a time on (seconds)."""

    at: float
    lines: tuple[str, ...]


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal of so many columns shows, without spaces at their ends."""
    terminal = _Terminal(columns)
    for found in _PARTS.finditer(written):
        if found[2] is not None:
            terminal.control(found[2], int(found[1]) if found[1].isdigit() else 0)
        elif not found[0].startswith("\x1b"):
            terminal.write(found[0])
    shown = ["".join(line).rstrip() for line in terminal.lines]
    while shown and not shown[-1]:
        shown.pop()
    return shown


class _Terminal:
    """The screen, and where the cursor is."""

    def __init__(self, columns: int) -> None:
        self.lines: list[list[str]] = [[]]
        self._columns = columns
        self._row = self._column = 0

    def control(self, kind: str, count: int) -> None:
        """A control sequence: the cursor goes up, or the rest of the line is erased."""
        if kind == "A":
            self._row = max(0, self._row - max(1, count))
        elif kind == "K":
            del self.lines[self._row][0 if count == 2 else self._column :]

    def write(self, character: str) -> None:
        """A character, or a move within the line or to the next one."""
        if character == "\r":
            self._column = 0
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character == "\n":
            self._next_line()
        else:
            if self._column >= self._columns:
                self._next_line()
            line = self.lines[self._row]
            line.extend(" " * (self._column + 1 - len(line)))
            line[self._column] = character
            self._column += 1

    def _next_line(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self.lines):
            self.lines.append([])


def moving(frames: Sequence[Frame], columns: int, title: str) -> str:
    """An SVG that shows each frame for its time, again and again; the last one where nothing may move."""
    rows = max(len(frame.lines) for frame in frames)
    ends = [*(frame.at for frame in frames[1:]), frames[-1].at + _REST]
    whole = ends[-1]
    width, height = columns * _WIDE + 2 * _RIM, rows * _HIGH + 2 * _RIM
    styles = [f"text{{font:{_SIZE}px monospace;fill:#d5dbe3;white-space:pre}}.f{{visibility:hidden}}"]
    groups = []
    for number, (frame, end) in enumerate(zip(frames, ends, strict=True)):
        begins, stops = 100 * frame.at / whole, 100 * end / whole
        styles.append(
            f"@keyframes k{number}{{0%{{visibility:{'visible' if begins == 0 else 'hidden'}}}"
            f"{begins:.2f}%{{visibility:visible}}{stops:.2f}%{{visibility:hidden}}100%{{visibility:hidden}}}}"
            f"#f{number}{{animation:k{number} {whole:.2f}s step-end infinite}}"
        )
        text = "".join(
            f'<text x="{_RIM}" y="{_RIM + _SIZE + place * _HIGH}">{escape(line)}</text>'
            for place, line in enumerate(frame.lines)
            if line
        )
        groups.append(f'<g class="f" id="f{number}">{text}</g>')
    still = f"#f{len(frames) - 1}{{visibility:visible}}.f{{animation:none!important}}"
    styles.append(f"@media (prefers-reduced-motion:reduce){{{still}}}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">\n<title>{escape(title)}</title>\n'
        f"<style>{''.join(styles)}</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#1e2129"/>\n' + "\n".join(groups) + "\n</svg>\n"
    )


def thinned(frames: Sequence[Frame], least: float) -> list[Frame]:
    """The frames without those that stay for less than so many seconds; the last one stays."""
    kept: list[Frame] = []
    for frame in frames:
        if kept and frame.at - kept[-1].at < least:
            kept[-1] = Frame(kept[-1].at, frame.lines)
        elif not kept or frame.lines != kept[-1].lines:
            kept.append(frame)
    return kept
