"""Has threads wake a trio that sleeps, and says what it slept by."""

from __future__ import annotations

import threading
from typing import Final

import trio

from imgstored.eventloop import kqueue_by_poll
from imgstored.eventloop.kqueue_by_poll import Kqueue

#: More than one: what wakes trio must be taken out again, and be waited for again.
_TIMES: Final = 3


def woken(patience: float) -> str | None:
    """What trio waits by, or None if a thread did not wake it within `patience` seconds."""
    sleeping = _Sleeping()
    return trio.run(_woken, patience, sleeping.seen, instruments=[sleeping])


class _Sleeping(trio.abc.Instrument):
    """Knows when trio is about to wait for the system."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            self.seen.set()


async def _woken(patience: float, asleep: threading.Event) -> str | None:
    token = trio.lowlevel.current_trio_token()
    for _ in range(_TIMES):
        asleep.clear()
        told = trio.Event()

        def wake(told: trio.Event = told) -> None:
            if asleep.wait(patience):
                token.run_sync_soon(told.set)

        waker = threading.Thread(target=wake, name="wakes trio", daemon=True)
        waker.start()
        with trio.move_on_after(patience):
            await told.wait()
        waker.join()
        if not told.is_set():
            return None
    return _waits_by()


def _waits_by() -> str:
    """In trio. Only its kqueue backend has `current_kqueue`."""
    if kqueue_by_poll.is_installed():
        kqueue: Kqueue = trio.lowlevel.current_kqueue()  # type: ignore[attr-defined,unused-ignore]
        return kqueue.waits_by
    return trio.lowlevel.current_statistics().io_statistics.backend
