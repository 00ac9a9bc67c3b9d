"""The dark variant of pictures: an SVG itself knows what a page is like, wherever it is shown. Pure."""

from __future__ import annotations

import re
from typing import Final

#: The fills and strokes of a page that is light, and what stands for them on a dark one.
_FILLS: Final = {
    "white": "#1e2129", "#eef3fa": "#26344d", "#fdf3e1": "#463817", "#f4f4f4": "#34373d",
    "#e5f4e6": "#1f4023",
    "#fae9e9": "#4d2626", "#56606e": "#a7b1bf", "#22303f": "#d5dbe3", "#9fb3cf": "#5b7aa6",
}  # fmt: skip
_STROKES: Final = {"#56606e": "#a7b1bf", "#22303f": "#d5dbe3", "#5b7aa6": "#86a5d3", "#777777": "#a3a3a3"}

_RULES: Final = "".join(
    [
        *(f'[fill="{light}"]{{fill:{dark}}}' for light, dark in _FILLS.items()),
        *(f'[stroke="{light}"]{{stroke:{dark}}}' for light, dark in _STROKES.items()),
        "text:not([fill]){fill:#d5dbe3}",
    ]
)
_STYLE: Final = f"<style>@media (prefers-color-scheme: dark) {{{_RULES}}}</style>\n"


def with_dark(svg: str) -> str:
    """The picture with its dark variant."""
    return re.sub(r"(<svg\b[^>]*>\n?)", lambda found: found[1] + _STYLE, svg, count=1)
