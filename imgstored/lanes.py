"""Lanes: the kind of client that a piece of work serves. Each has threads and requests to servers of its own.

So a change never waits for a thread that a question has, nor root for one that has a stranger's. A task is in
the lane of its parent, and so is a thread of trio's. What is in no lane is the daemon's own work, a change.

The threads of a lane are of several kinds, by what may hold them up: a disk that does not answer takes those
of its kind. Trio's own 40, which all would share, are nobody's.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

import trio
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Changes, with the daemon's own work; questions of those who may change; questions of anybody else.
Lane = Literal["changes", "questions", "strangers"]

#: What a thread works on: the daemon's small files, with parsing; files of downloads; the library; the view.
Kind = Literal["files", "spools", "library", "view"]

#: For each lane: threads of each kind, requests to image servers, threads for name look-ups.
_THREADS: Final[dict[Lane, int]] = {"changes": 16, "questions": 8, "strangers": 4}
_REQUESTS: Final[dict[Lane, int]] = {"changes": 64, "questions": 32, "strangers": 32}
_LOOKUPS: Final[dict[Lane, int]] = {"changes": 32, "questions": 16, "strangers": 16}

#: Open files that all requests of all lanes take at most: a socket each.
MAX_REQUESTS: Final = sum(_REQUESTS.values())

_current: ContextVar[Lane] = ContextVar("lane", default="changes")


class _Limiters(Struct, frozen=True):
    threads: dict[Kind, dict[Lane, trio.CapacityLimiter]] = field(
        default_factory=lambda: {kind: _limiters(_THREADS) for kind in get_args(Kind)}
    )
    requests: dict[Lane, trio.CapacityLimiter] = field(default_factory=lambda: _limiters(_REQUESTS))
    lookups: dict[Lane, trio.CapacityLimiter] = field(default_factory=lambda: _limiters(_LOOKUPS))


def _limiters(sizes: dict[Lane, int]) -> dict[Lane, trio.CapacityLimiter]:
    return {lane: trio.CapacityLimiter(size) for lane, size in sizes.items()}


_of_this_run: trio.lowlevel.RunVar[_Limiters] = trio.lowlevel.RunVar("lanes")


def current() -> Lane:
    """The lane that this task, or thread, is in."""
    return _current.get()


@contextmanager
def bound(lane: Lane) -> Iterator[None]:
    """Puts the block into a lane, with all tasks and threads that it starts."""
    token = _current.set(lane)
    try:
        yield
    finally:
        _current.reset(token)


def threads(kind: Kind = "files") -> trio.CapacityLimiter:
    """The lane's threads of a kind."""
    return _limiters_now().threads[kind][current()]


def requests() -> trio.CapacityLimiter:
    """The lane's requests to image servers for small documents."""
    return _limiters_now().requests[current()]


def lookups() -> trio.CapacityLimiter:
    """The lane's threads for name look-ups, which nobody can interrupt."""
    return _limiters_now().lookups[current()]


async def in_thread(work: Callable[..., T], *arguments: object, kind: Kind = "files") -> T:
    """Runs `work`, which blocks, in a thread of the lane; returns or raises its result."""
    return await trio.to_thread.run_sync(work, *arguments, limiter=threads(kind))


def _limiters_now() -> _Limiters:
    try:
        return _of_this_run.get()
    except LookupError:
        limiters = _Limiters()
        _of_this_run.set(limiters)
        return limiters
