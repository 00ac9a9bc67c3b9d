"""shellcheck has nothing to say against any shell script of the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Folders that are not the project's own.
OTHERS = {"build", "dist", "node_modules", "__pycache__"}


def shell_scripts() -> list[str]:
    found = []
    for top in sorted(ROOT.iterdir()):
        if top.name.startswith(".") or top.name in OTHERS:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not OTHERS & set(path.relative_to(ROOT).parts):
                with path.open("rb") as file:
                    if re.match(rb"#!\s*\S*(/env )?\S*\b(sh|bash|dash|ksh)\b", file.readline(200)):
                        found.append(str(path.relative_to(ROOT)))
    return found


SCRIPTS = shell_scripts()


def test_the_scripts_are_found():
    assert {"smf/method/imgstored", "tests/setup.sh", "tests/guest/run.sh", "bench/guest.sh"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    done = subprocess.run(
        ["shellcheck", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
