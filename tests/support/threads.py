"""Checks that a test leaves no thread behind."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_threads_left() -> Iterator[None]:
    """The threads after the block are those before it, without any waiting."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before
