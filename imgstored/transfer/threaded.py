"""Iterators that run in other threads, so that their work and their consumer's use several cores."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Generic, TypeVar

from imgstored.host import threads
from imgstored.transfer.stages import ThreadTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
U = TypeVar("U")


@contextmanager
def threaded(
    upstream: Iterable[T], depth: int, name: str = "threaded", times: ThreadTimes | None = None
) -> Iterator[ThreadedIterator[T]]:
    """A `ThreadedIterator` with a thread of its own, which has ended when the `with` block is left."""
    with ThreadPoolExecutor(1, thread_name_prefix=name) as executor:
        ahead = ThreadedIterator(upstream, depth, executor, times)
        try:
            yield ahead
        finally:
            ahead.close()


class ThreadedIterator(Generic[T]):
    """An iterator over `upstream`, which a thread of `executor` runs ahead by at most `depth` items.

    What `upstream` raises is raised by `__next__`, with its traceback. `upstream` is closed, where it can be,
    by the thread that ran it. `times` gets where both sides wait.
    """

    def __init__(
        self, upstream: Iterable[T], depth: int, executor: Executor, times: ThreadTimes | None = None
    ) -> None:
        self._times = times or ThreadTimes()
        self._upstream = upstream
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._outcome = executor.submit(copy_context().run, self._run)

    def __iter__(self) -> ThreadedIterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            if not (self._items or self._ended or self._closed):
                with self._times.empty:
                    self._changed.wait_for(lambda: self._items or self._ended or self._closed)
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            if self._closed:
                raise StopIteration
        self._outcome.result()
        raise StopIteration

    def close(self) -> None:
        """Stops the thread at `upstream`'s next item, waits for that, and drops what is not yet read.

        An `upstream` that blocks has to be released first. Closing twice is no error.
        """
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        if not self._outcome.cancel():
            wait([self._outcome])

    def _run(self) -> None:
        threads.show_name()
        with self._times.running, ExitStack() as stack:
            stack.callback(self._end)
            stack.callback(getattr(self._upstream, "close", lambda: None))
            for item in self._upstream:
                if not self._put(item):
                    return

    def _put(self, item: T) -> bool:
        """True if the consumer still wants more."""
        with self._changed:
            if not self._closed and len(self._items) >= self._depth:
                with self._times.full:
                    self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def workers_for(limit: int) -> int:
    """The number of units to decode side by side: that of the processors, and no more than `limit`."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(limit, available))


def in_parallel(
    units: Iterable[U], work: Callable[[U], Iterator[T]], workers: int, depth: int
) -> Iterator[T]:
    """Yields what `work` makes of each unit, in order; `workers` threads do the work.

    One unit more than there are threads is held, so that none has to wait for it. Each may be `depth` pieces
    of output ahead. Closing the iterator ends all threads; so does an error, which is raised when its unit's
    turn has come.
    """
    running: deque[ThreadedIterator[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="parallel") as executor:
        try:
            for unit in units:
                running.append(ThreadedIterator(work(unit), depth, executor))
                if len(running) > workers:
                    yield from running[0]
                    running.popleft()
            while running:
                yield from running[0]
                running.popleft()
        finally:
            # The youngest first: it may not have begun, and then never will.
            for iterator in reversed(running):
                iterator.close()
