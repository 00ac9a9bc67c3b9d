"""Signal masks: only trio's thread takes signals, and only while it waits.

Any thread that does not block a signal may take it. On illumos a thread that takes a signal in a channel
program, or in another long call of ZFS, returns with EINTR in the middle of the work. So signals are blocked
whenever a thread may be started, by trio, a thread pool or a library: the new thread inherits the mask.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_T = TypeVar("_T")

#: Signals of a thread's own faults, and SIGABRT, which ends a hanging process: a mask must not delay them.
_NEVER: Final = ("SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
#: All other signals with a name. Realtime signals have none, and Python takes long to look for one.
BLOCKED: Final = frozenset(
    each
    for each in signal.Signals
    if each.name not in (*_NEVER, "SIGKILL", "SIGSTOP", "SIGRTMIN", "SIGRTMAX")
)


def run(main: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """As `trio.run`, but only the calling thread takes signals, and only while trio waits for events.

    Threads that begin meanwhile never take a signal, not even later. For the main thread.
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
    """Unblocks all signals for the block, so that a program started in it has none blocked.

    The thread may take a signal in the block, and so must not call ZFS there.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
