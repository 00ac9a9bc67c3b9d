"""Decoding the independent units of a file side by side, in order."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from imgstored.transfer.threaded import Hop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


def workers_for(limit: int) -> int:
    """How many units to decode side by side: as many as there are processors, and no more than `limit`."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(limit, available))


def decode_in_parallel(
    units: Iterable[T], decode: Callable[[T], Iterator[bytes]], workers: int, depth: int
) -> Iterator[bytes]:
    """What `decode` makes of each unit, one after another, made by `workers` threads.

    One unit more than there are threads is held, so that none has to wait for it. Each may be `depth` pieces
    of output ahead. Closing the iterator ends all threads; so does an error, which is raised when its unit's
    turn has come.
    """
    running: deque[Hop[bytes]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as executor:
        try:
            for unit in units:
                running.append(Hop(decode(unit), depth, executor))
                if len(running) > workers:
                    yield from running[0]
                    running.popleft()
            while running:
                yield from running[0]
                running.popleft()
        finally:
            # The youngest first: it may not have begun, and then never will.
            for hop in reversed(running):
                hop.close()
