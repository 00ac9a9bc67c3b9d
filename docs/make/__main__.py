"""`python -m docs.make` writes what is made in docs and in README.md.

With `--figures BENCH` it first takes over the rows of the table that `make BENCH` prints, from standard
input: `make bench | python -m docs.make --figures bench`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docs.make import errors, figures, rooms
from docs.make.configuration import configuration
from docs.make.drawing import drawn, mark

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_FIGURES = _DOCS / "figures.json"


def main() -> None:
    """Writes all of it."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description="Makes what is made in docs.")
    parser.add_argument("--figures", metavar="BENCH", choices=("bench", "bench-zfs"))
    bench = parser.parse_args().figures
    rows = figures.read(_FIGURES.read_text(encoding="utf-8"))
    if bench is not None:
        rows = figures.merged(rows, bench, sys.stdin.read())
        _write(_FIGURES, figures.written(rows))
    for name in ("README.md", "docs/benchmarks.md"):
        _change(_ROOT / name, lambda text: figures.page(text, rows))
    for name in rows:
        _write(_DOCS / "pictures" / f"{name}.svg", figures.plot(rows, name))
    _change(_DOCS / "configuration.md", configuration)
    _write(_DOCS / "errors.md", errors.page())
    _write(_DOCS / "pictures" / "rooms.dot", rooms.picture())
    for source in sorted((_DOCS / "pictures").glob("*.dot")):
        text, picture = source.read_text(encoding="utf-8"), source.with_suffix(".svg")
        # Another graphviz draws the same a little otherwise: only what has changed is drawn.
        if not picture.exists() or mark(text) not in picture.read_text(encoding="utf-8"):
            _write(picture, drawn(text))


def _change(path: Path, change: Callable[[str], str]) -> None:
    _write(path, change(path.read_text(encoding="utf-8")))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"wrote {path.relative_to(_ROOT)}\n")


main()
