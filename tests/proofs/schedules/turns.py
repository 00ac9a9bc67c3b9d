"""Threads that take turns: everything in one thread of the system, in an order that chance decides by a seed.

A thread becomes a task of trio that runs a greenlet, in which blocking calls may wait. It goes on until it
comes to a lock, to something that it waits for, or to `pause`; then trio chooses who goes on, by `Turns`. So
the code with threads runs as it is, each run of a seed is the same one, and time passes only when all wait
(`MockClock`).

`install` replaces what makes threads and locks, in this process and for good, before imgstored is imported.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import random
import secrets
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import outcome
import trio
import trio._core._run as scheduler
from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: What `time.time` says when the clock of a run begins.
EPOCH: Final = 1_800_000_000.0
#: How often a thread lets others go on before it takes a lock.
_AT_LOCKS: Final = 0.1


class StuckError(AssertionError):
    """The event loop would wait for a thread that waits itself: nothing could go on."""


class Turns:
    """Who goes on, and how long things take. There is one; `seed` begins a run."""

    def __init__(self) -> None:
        self.dice = random.Random()
        self.offset = 0.0  #: seconds, of runs of trio that came before

    def seed(self, seed: str) -> None:
        """From now on all chances come from this seed."""
        self.dice = random.Random(seed)
        self.offset = 0.0
        random.seed(f"{seed} random")
        _names.seed(f"{seed} names")
        scheduler._r.seed(f"{seed} scheduler")

    def moment(self) -> float:
        """Seconds that something takes: mostly none, sometimes some."""
        kind = self.dice.random()
        if kind < 0.6:
            return 0.0
        return self.dice.expovariate(200.0) if kind < 0.95 else self.dice.expovariate(1.0)


TURNS: Final = Turns()
#: What `secrets` takes: names, and nothing that is secret here.
_names: Final = random.Random()


async def some_time() -> None:
    """What something takes, which may be so little that nobody else goes on."""
    if TURNS.dice.random() < 0.6:
        await rest(TURNS.moment())


async def rest(seconds: float) -> None:
    """Lets others go on, for so long."""
    if seconds:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()


def pause(seconds: float = 0.0) -> None:
    """A thread lets others go on. In the event loop's own code it does nothing."""
    if in_thread():
        _waits(rest(seconds))


def in_thread() -> bool:
    """Whether this is a thread, and not the event loop."""
    return isinstance(getcurrent(), _Thread)


def _waits(what: Awaitable[Any]) -> Any:
    """In a thread: waits for something, while others go on."""
    result: outcome.Outcome[Any] = getcurrent().parent.switch(what)
    return result.unwrap()


class _Thread(greenlet):
    """A thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(lambda: outcome.capture(work))
        self.gr_context = contextvars.copy_context()
        self.cancel: Callable[[], None] | None = None  #: of `trio.to_thread`, once its caller is cancelled
        self.locks = 0  #: that it has; the event loop waits for none of them


async def _live(thread: _Thread) -> outcome.Outcome[Any]:
    """Runs a thread to its end."""
    value = thread.switch()
    while not thread.dead:
        value = thread.switch(await outcome.acapture(_result_of, value))
    result: outcome.Outcome[Any] = value
    return result


async def _result_of(what: Awaitable[Any]) -> Any:
    return await what


# -- locks ---------------------------------------------------------------------------------------------------


class Lock:
    """In place of `threading.Lock`, and of `RLock` if `again`."""

    def __init__(self, *, again: bool = False) -> None:
        self._again = again
        self._owner: object = None
        self._count = 0
        self._waiting: list[trio.Event] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = getcurrent()
        thread = me if isinstance(me, _Thread) else None
        if self._count and self._again and self._owner is me:
            self._count += 1
            return True
        if blocking and thread is not None and not thread.locks and TURNS.dice.random() < _AT_LOCKS:
            pause()
        while self._count:
            if not blocking:
                return False
            if thread is None or self._owner is me:
                raise StuckError("a lock that a waiting thread has is waited for")
            event = trio.Event()
            self._waiting.append(event)
            _waits(event.wait())
        self._owner, self._count = me, 1
        if thread is not None:
            thread.locks += 1
        return True

    def release(self) -> None:
        assert self._count, "the lock is nobody's"
        self._count -= 1
        if not self._count:
            owner, self._owner = self._owner, None
            if isinstance(owner, _Thread):
                owner.locks -= 1
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                event.set()

    def locked(self) -> bool:
        return bool(self._count)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """In place of `threading.Condition`."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock(again=True)
        self._waiting: list[trio.Event] = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if not in_thread():
            raise StuckError("the event loop waits for a condition")
        event = trio.Event()
        self._waiting.append(event)
        self._lock.release()
        try:
            _waits(_wait(event, timeout))
        finally:
            self._lock.acquire()
        if event in self._waiting:
            self._waiting.remove(event)
        return event.is_set()

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for event in woken:
            event.set()

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """In place of `threading.Event`."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._set, timeout))


async def _wait(event: trio.Event, seconds: float | None) -> None:
    with trio.move_on_after(float("inf") if seconds is None else seconds):
        await event.wait()


# -- threads -------------------------------------------------------------------------------------------------


class Future:
    """In place of `concurrent.futures.Future`, of what `Executor` runs."""

    def __init__(self) -> None:
        self.state = "pending"
        self._result: outcome.Outcome[Any] | None = None
        self._ended = Event()

    def cancel(self) -> bool:
        if self.state == "pending":
            self.end("cancelled", None)
        return self.state == "cancelled"

    def end(self, state: str, result: outcome.Outcome[Any] | None) -> None:
        self.state, self._result = state, result
        self._ended.set()

    def wait(self) -> None:
        self._ended.wait()

    def result(self) -> Any:
        self.wait()
        assert self._result is not None, "it was cancelled"
        # An outcome gives its result once; a future gives it as often as one likes.
        if isinstance(self._result, outcome.Error):
            raise self._result.error
        return self._result.value


class Executor:
    """In place of `concurrent.futures.ThreadPoolExecutor`."""

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        self._free = trio.Semaphore(max_workers)
        self._name = thread_name_prefix
        self._futures: list[Future] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        future = Future()
        self._futures.append(future)

        async def run() -> None:
            with suppress(trio.Cancelled):
                await some_time()
                async with self._free:
                    if future.state != "pending":
                        return
                    future.state = "running"
                    future.end("ended", await _live(_Thread(partial(work, *arguments))))

        trio.lowlevel.spawn_system_task(run, name=self._name)
        return future

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._futures:
            future.wait()


def wait(futures: list[Future]) -> None:
    """In place of `concurrent.futures.wait`."""
    for future in futures:
        future.wait()


async def run_in_thread(
    work: Callable[..., Any],
    *arguments: Any,
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> Any:
    """In place of `trio.to_thread.run_sync`."""
    await trio.lowlevel.checkpoint_if_cancelled()
    limiter = limiter or trio.to_thread.current_default_thread_limiter()
    token, task, thread = object(), trio.lowlevel.current_task(), _Thread(partial(work, *arguments))
    await limiter.acquire_on_behalf_of(token)
    left = False

    async def run() -> None:
        result: outcome.Outcome[Any]
        try:
            await some_time()
            result = await _live(thread)
            await some_time()
        except trio.Cancelled:
            return  # the run of trio has ended, and left this thread behind
        limiter.release_on_behalf_of(token)
        if not left:
            trio.lowlevel.reschedule(task, result)

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        nonlocal left
        thread.cancel = raise_cancel
        left = abandon_on_cancel
        return trio.lowlevel.Abort.SUCCEEDED if abandon_on_cancel else trio.lowlevel.Abort.FAILED

    trio.lowlevel.spawn_system_task(run, name=thread_name or "thread")
    return await trio.lowlevel.wait_task_rescheduled(abort)


def run_in_loop(work: Callable[..., Any], *arguments: Any) -> Any:
    """In place of `trio.from_thread.run_sync`."""
    pause()
    result = work(*arguments)
    pause()
    return result


def check_cancelled() -> None:
    """In place of `trio.from_thread.check_cancelled`."""
    pause()
    thread = getcurrent()
    if isinstance(thread, _Thread) and thread.cancel is not None:
        thread.cancel()


# -- all of it -----------------------------------------------------------------------------------------------


def install() -> None:
    """Replaces threads, locks, clocks and chance. Nothing of imgstored may have been imported."""
    import sys

    assert not any(name.startswith("imgstored.") for name in sys.modules), "it has its locks already"
    threading.Lock = Lock  # type: ignore[misc, assignment]
    threading.Condition = Condition  # type: ignore[misc, assignment]
    threading.Event = Event  # type: ignore[misc, assignment]
    concurrent.futures.ThreadPoolExecutor = Executor  # type: ignore[misc, assignment]
    concurrent.futures.wait = wait  # type: ignore[assignment]
    trio.to_thread.run_sync = run_in_thread
    trio.from_thread.run_sync = run_in_loop
    trio.from_thread.check_cancelled = check_cancelled
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    secrets.token_hex = lambda nbytes=32: _names.randbytes(nbytes or 32).hex()
    secrets.randbits = _names.getrandbits
    real = time.time, time.monotonic
    time.time = lambda: _clock(real[0])
    time.monotonic = lambda: _clock(real[1])


def _clock(real: Callable[[], float]) -> float:
    try:
        return EPOCH + TURNS.offset + trio.current_time()
    except RuntimeError:
        return real()
