"""`make help` lists all that make can do."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = {
    name
    for line in re.findall(r"^\.PHONY: (.*(?:\\\n.*)*)", MAKEFILE, re.MULTILINE)
    for name in line.replace("\\\n", " ").split()
}


def test_help_lists_every_target():
    # Not as a part of the make that runs these tests.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:1].isalpha())
    # A part of `make test` alone.
    assert PHONY - {"zfs"} == listed.keys()
    assert all(listed.values())


def test_every_target_is_phony():
    assert set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)) == PHONY
