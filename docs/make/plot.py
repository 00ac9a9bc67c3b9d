"""Bars with what their values lie between, and curves, as SVG. Pure: no I/O."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from docs.make.dark import with_dark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH, _LEFT, _RIGHT = 760, 230, 70  # pixels: the picture, the names, room for the last value
_BAR, _GAP, _TOP = 18, 14, 46  # pixels: a bar's height, between groups, above the first
_LINES = ("#b98a2f", "#3f6ea5", "#5b9a5b", "#a5483f", "#7a5ba0", "#5b5b5b")
_OURS, _THEIRS, _INK = "#b98a2f", "#9fb3cf", "#22303f"


class Bar(NamedTuple):
    """A bar: the median of some runs, the least, and the most."""

    name: str
    median: float
    least: float
    most: float
    ours: bool


def bars(title: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """One group of bars below the other, all on one scale that begins with 0."""
    most = max((bar.most for group in groups.values() for bar in group), default=1.0)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    body: list[str] = []
    top = _TOP
    for name, group in groups.items():
        body.append(_text(8, top + 12, name, weight="bold"))
        top += 20
        for bar in group:
            body += _bar(bar, top, scale)
            top += _BAR + 4
        top += _GAP
    return with_dark("\n".join([*_head(title, top), *body, "</svg>", ""]))


def curves(title: str, along: str, lines: Mapping[str, Sequence[float]], most: float) -> str:
    """For each line, the part of all that was done by a time: `lines` have the times of equal parts.

    What is done after `most` is cut off. `along` says what the times are.
    """
    left, top, width, height = 60, _TOP, _WIDTH - 90, 260
    bottom = top + height
    body = [f'<path d="M{left} {top} V{bottom} H{left + width}" stroke="{_INK}" fill="none"/>']
    for part in range(5):
        at = part / 4
        body.append(_text(left - 8, int(bottom - at * height + 4), f"{at:.0%}", anchor="end"))
        body.append(_text(int(left + at * width), bottom + 16, f"{at * most:g}", anchor="middle"))
    body.append(_text(left + width // 2, bottom + 34, along, anchor="middle"))
    for place, (name, times) in enumerate(lines.items()):
        colour = _LINES[place % len(_LINES)]
        points = " ".join(
            f"{left + time / most * width:.1f},{bottom - number / (len(times) - 1) * height:.1f}"
            for number, time in enumerate(times)
            if time <= most
        )
        body.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="2" fill="none"/>')
        down = bottom + 56 + 18 * place
        body.append(f'<rect x="{left}" y="{down - 8}" width="24" height="4" fill="{colour}"/>')
        body.append(_text(left + 32, down, name))
    return "\n".join([*_head(title, bottom + 56 + 18 * len(lines)), *body, "</svg>", ""])


def _head(title: str, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="Helvetica,Arial,sans-serif" font-size="12">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="{height}" fill="white"/>'
    yield _text(8, 22, title, weight="bold", size=14)


def _bar(bar: Bar, top: int, scale: float) -> Iterator[str]:
    middle, end = top + _BAR / 2, _LEFT + bar.median * scale
    colour = _OURS if bar.ours else _THEIRS
    yield _text(_LEFT - 8, middle + 4, bar.name, anchor="end")
    yield f'<rect x="{_LEFT}" y="{top}" width="{end - _LEFT:.1f}" height="{_BAR}" fill="{colour}"/>'
    least, most = _LEFT + bar.least * scale, _LEFT + bar.most * scale
    yield (
        f'<path d="M{least:.1f} {middle} H{most:.1f} M{least:.1f} {top + 4} v{_BAR - 8} '
        f'M{most:.1f} {top + 4} v{_BAR - 8}" stroke="{_INK}"/>'
    )
    yield _text(max(end, most) + 6, middle + 4, f"{bar.median:.3g}")


def _text(
    x: float, y: float, words: str, *, weight: str = "normal", size: int = 12, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" font-weight="{weight}" font-size="{size}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )
