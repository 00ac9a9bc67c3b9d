"""Checks that a test leaves no thread behind."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_threads_left() -> Iterator[None]:
    """No thread is there after the block that was not there before it, without any waiting."""
    before = set(threading.enumerate())
    yield
    # One that was idle before, such as trio keeps for a while, may have ended meanwhile.
    assert set(threading.enumerate()) <= before
