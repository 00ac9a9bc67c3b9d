"""The files that the process of the tests has open."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_files() -> set[str]:
    """What this process has open, by number and name: a name says more than a count where a test fails."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


@contextmanager
def no_files_left(seconds: float = 0) -> Iterator[None]:
    """No file is open after the block that was not open before it, within so many seconds.

    None where the block itself has closed them; some where another thread does.
    """
    before = open_files()
    yield
    deadline = time.monotonic() + seconds
    # A thread of an earlier test may have closed its own meanwhile.
    while not open_files() <= before:
        assert time.monotonic() < deadline, open_files() - before
        time.sleep(0.01)
