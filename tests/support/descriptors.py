"""The files that the process of the tests has open."""

from __future__ import annotations

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
def no_files_left() -> Iterator[None]:
    """No file is open after the block that was not open before it, without any waiting."""
    before = open_files()
    yield
    # A thread of an earlier test may have closed its own meanwhile.
    assert open_files() <= before
