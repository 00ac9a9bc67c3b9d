"""Wakes a sleeping trio from threads, and says what it slept by."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import trio

from imgstored.eventloop import kqueue_by_poll

if TYPE_CHECKING:
    from imgstored.eventloop.kqueue_by_poll import Kqueue

#: More than one: what wakes trio must be taken out again, and be waited for again.
_TIMES: Final = 3


def woken() -> str:
    """Runs trio until threads have woken it from its sleep; returns what it waits by.

    Where they cannot wake it, this does not return: nor does `trio.run`, which wakes itself before it ends.
    """
    sleeping = _Sleeping()
    return trio.run(_woken, sleeping.seen, instruments=[sleeping])


class _Sleeping(trio.abc.Instrument):
    """Knows when trio is about to wait for the system."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            self.seen.set()


async def _woken(asleep: threading.Event) -> str:
    token = trio.lowlevel.current_trio_token()
    for _ in range(_TIMES):
        asleep.clear()
        awake = trio.Event()

        def wake(awake: trio.Event = awake) -> None:
            asleep.wait()
            token.run_sync_soon(awake.set)

        waker = threading.Thread(target=wake, name="wakes trio", daemon=True)
        waker.start()
        await awake.wait()
        waker.join()
    return _waits_by()


def _waits_by() -> str:
    """In trio. Only its kqueue backend has `current_kqueue`."""
    if kqueue_by_poll.is_installed():
        kqueue: Kqueue = trio.lowlevel.current_kqueue()  # type: ignore[attr-defined,unused-ignore]
        return kqueue.waits_by
    return trio.lowlevel.current_statistics().io_statistics.backend
