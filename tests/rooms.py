"""`python -m tests.rooms COVERAGE.json`: how much of each room of the code the tests reach."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def room(path: str) -> str:
    """`imgstored/imports/plan.py` is of `imgstored/imports`, `imgstored/app.py` of `imgstored`."""
    parts = PurePath(path).parts
    for package in ("imgctl", "imgproto"):
        if package in parts:
            return f"ctl/{package}"
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def table(files: dict[str, Any]) -> Iterator[str]:
    """Lines of text: each room, its statements, those never run, and what part of them was."""
    statements: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for path, file in files.items():
        for name in (room(path), "all"):
            statements[name] += file["summary"]["num_statements"]
            missed[name] += file["summary"]["missing_lines"]
    yield f"{'room':<24}{'lines':>8}{'missed':>8}{'reached':>9}"
    for name in [*sorted(statements.keys() - {"all"}), "all"]:
        share = 1 - missed[name] / statements[name] if statements[name] else 1
        yield f"{name:<24}{statements[name]:>8}{missed[name]:>8}{share:>9.1%}"


if __name__ == "__main__":
    print(*table(json.loads(Path(sys.argv[1]).read_text())["files"]), sep="\n")
