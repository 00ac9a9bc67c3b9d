"""Bars with what their values lie between, as SVG. Pure: no I/O."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from docs.make.dark import with_dark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH, _LEFT, _RIGHT = 760, 230, 70  # pixels: the picture, the names, room for the last value
_BAR, _GAP, _TOP = 18, 14, 46  # pixels: a bar's height, between groups, above the first
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
