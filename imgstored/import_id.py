"""The id of an import, which all its log lines have, from the search to the receipt.

Code that needs the id gets it as an argument. Only log lines get it from the context, which `bound` sets: a
task has what its parent had when it was started, and so has a thread of trio's. Other threads are given it
(`contextvars.copy_context().run`).
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from structlog.contextvars import bound_contextvars

if TYPE_CHECKING:
    from collections.abc import Iterator


def fresh() -> str:
    """A new id: eight hexadecimal digits."""
    return secrets.token_hex(4)


@contextmanager
def bound(import_id: str) -> Iterator[None]:
    """Adds the id to all that the block logs, and all tasks and threads that it starts."""
    with bound_contextvars(import_id=import_id):
        yield
