"""Signal masks: only trio's thread takes signals, and only while it waits.

A signal for the process is taken by any of its threads that lets it through. On illumos a thread that is in a
channel program or in another long call of ZFS and takes one comes back with EINTR, in the middle of the work.
So signals are blocked where threads are started, which inherit that, whoever starts them: trio, a pool of
threads, a library.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_T = TypeVar("_T")

#: What a thread's own fault raises, and what ends a process that hangs: a mask must not hold it up.
_NEVER: Final = ("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
#: All others that have a name. Realtime signals have none, and Python takes long to look for one.
BLOCKED: Final = frozenset(
    each
    for each in signal.Signals
    if each.name not in (*_NEVER, "SIGKILL", "SIGSTOP", "SIGRTMIN", "SIGRTMAX")
)


def run(main: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """As `trio.run`, with signals that only the calling thread takes, and only while trio waits for events.

    Threads that begin meanwhile never take one, not even later on. For the main thread.
    """
    import trio  # the zstream programs start others, too, and need no trio

    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)

    class Waiting(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def after_io_wait(self, timeout: float) -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)

    try:
        return trio.run(main, *arguments, instruments=[Waiting()], strict_exception_groups=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def for_child() -> Iterator[None]:
    """Programs that are started in here begin with no signal blocked: they inherit the thread's mask.

    The thread may take a signal meanwhile, and so must not call ZFS.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
