"""Writes what is made: texts by the code, tables and plots by the figures, pictures by graphviz."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docs.make import commands, dashboard, errors, events, figures, rooms
from docs.make.configuration import configuration
from docs.make.drawing import drawn, mark
from docs.man.pages import pages

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_FIGURES = _DOCS / "figures.json"


def texts() -> None:
    """The pages that the code makes, and the manual pages."""
    _change(_DOCS / "configuration.md", configuration)
    for name, module in (("commands", commands), ("errors", errors), ("events", events)):
        _write(_DOCS / f"{name}.md", module.page())
    _write(_DOCS / "grafana-dashboard.json", dashboard.dashboard())
    for name, page in pages().items():
        _write(_DOCS / "man" / name, page)


def measured(bench: str | None = None, printed: str = "") -> None:
    """Tables and plots of the figures; of a bench that is named, first the table that it has printed."""
    rows = figures.read(_FIGURES.read_text(encoding="utf-8"))
    if bench is not None:
        rows = figures.merged(rows, bench, printed)
        _write(_FIGURES, figures.written(rows))
    for name in ("README.md", "docs/benchmarks.md", "docs/deltas.md"):
        _change(_ROOT / name, lambda text: figures.page(text, rows))
    for name in rows:
        _write(_DOCS / "pictures" / f"{name}.svg", figures.plot(rows, name))
    _write(_DOCS / "pictures" / "fleet.svg", figures.fleet((_DOCS / "fleet.json").read_text("utf-8")))


def pictures() -> None:
    """The pictures whose text has changed: another graphviz draws the others a little otherwise."""
    _write(_DOCS / "pictures" / "rooms.dot", rooms.picture())
    for source in sorted((_DOCS / "pictures").glob("*.dot")):
        text, picture = source.read_text(encoding="utf-8"), source.with_suffix(".svg")
        if not picture.exists() or mark(text) not in picture.read_text(encoding="utf-8"):
            try:
                _write(picture, drawn(text))
            except FileNotFoundError:
                sys.exit(f"{picture.relative_to(_ROOT)} is to be drawn anew: install graphviz")


def _change(path: Path, change: Callable[[str], str]) -> None:
    _write(path, change(path.read_text(encoding="utf-8")))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"wrote {path.relative_to(_ROOT)}\n")
