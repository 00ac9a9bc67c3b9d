"""What the process has run out of, where an error comes of that: descriptors, memory or threads.

An allocation may fail anywhere, also where no code can go on from: between two tables that must agree, or on
the way of a result to the task that waits for it. So what meets such an error unprepared notes it, and the
daemon then ends and is started anew, with what is on the disk, which is whole at any moment.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The hint if descriptors run out: only the system's administrator can raise the hard limit.
DESCRIPTORS_HINT: Final = (
    "raise the hard limit (`LimitNOFILE=` of the systemd unit, process.max-file-descriptor on illumos), or"
    " lower `limits.clients`, `limits.imports` or `limits.connections`"
)
MEMORY_HINT: Final = (
    "try again when the host has free memory; `limits.imports`, `limits.connections` and a limit of the"
    " service (`MemoryMax=`, `LimitAS=`, `TasksMax=`) say how much the daemon takes, and may take"
)

#: The errors of a process, or a system, that has as many open files as it may have.
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
#: What CPython says when the system gives it no thread; it has no class, nor a number, for that.
_NO_THREAD: Final = "can't start new thread"
#: What it says in place of a MemoryError: where it has lost that in a call, where it asked for a path's text,
#: and of the lock of a file.
_UNSAID: Final = (
    (SystemError, "without setting an exception"),
    (SystemError, "without exception set"),
    (TypeError, "not PosixPath"),
    (RuntimeError, "can't allocate"),
)
#: The most causes of an error that are examined.
_CAUSES: Final = 20


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """What the daemon has too much or too little of, in words, the cause's own words, and what to do."""

    what: str
    words: str
    hint: str


def behind(error: BaseException) -> Exhaustion | None:
    """The exhaustion that caused an error; None if none did."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_DESCRIPTORS:
            return Exhaustion("too many open files", cause.strerror or "", DESCRIPTORS_HINT)
        no_memory = isinstance(cause, OSError) and cause.errno == errno.ENOMEM
        unsaid = any(isinstance(cause, kind) and words in str(cause) for kind, words in _UNSAID)
        if isinstance(cause, MemoryError) or no_memory or unsaid:
            return Exhaustion("too little memory", getattr(cause, "strerror", None) or "", MEMORY_HINT)
        if isinstance(cause, RuntimeError) and _NO_THREAD in str(cause):
            return Exhaustion("no memory for a thread, or as many threads as it may have", "", MEMORY_HINT)
    return None


_doubtful = False


def note(error: BaseException) -> None:
    """Remembers that memory ran out at a place that was not prepared for it. For any thread."""
    global _doubtful
    if isinstance(error, MemoryError):
        _doubtful = True
        return
    try:
        found = behind(error)
    except MemoryError:
        _doubtful = True
        return
    if found is not None and found.hint is MEMORY_HINT:
        _doubtful = True


def is_noted() -> bool:
    """True if something may be missing in the memory of this process."""
    return _doubtful


class _Call:
    """A function that a task has a thread run."""

    __slots__ = ("returned",)

    def __init__(self) -> None:
        self.returned: float | None = None  #: when, in seconds of the steady clock


_calls: set[_Call] = set()


def watch_threads() -> None:
    """From now on it is known which tasks wait for a thread whose function has returned.

    A thread that cannot hand over its result, for want of memory, prints so, and trio goes on: the task waits
    for ever. trio has no hook for that, so this stands in place of `trio.to_thread.run_sync`.
    """
    import trio  # not for those who only ask what an error comes of

    threads = trio.to_thread
    run = threads.run_sync

    async def run_sync(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        call = _Call()

        def running(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            finally:
                call.returned = time.monotonic()

        running.__name__ = getattr(function, "__name__", running.__name__)  # of which trio makes the thread's
        _calls.add(call)
        try:
            return await run(running, *arguments, **options)
        finally:
            _calls.discard(call)

    threads.run_sync = run_sync  # type: ignore[assignment]


async def look_for_lost_results(seconds: float) -> NoReturn:
    """Notes if the result of a thread was lost. Looks each so many seconds; a task has twelve to go on."""
    import trio

    while True:
        await trio.sleep(seconds)
        late = time.monotonic() - 12 * seconds
        waiting = [call for call in _calls if call.returned is not None and call.returned < late]
        if waiting:
            # What is on the way while trio is held up comes before the next look.
            await trio.sleep(seconds)
            if not _calls.isdisjoint(waiting):
                note(MemoryError("the result of a thread was lost"))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what caused it, to a bound."""
    left = [error]
    for _ in range(_CAUSES):
        if not left:
            return
        cause = left.pop()
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            left += cause.exceptions
        further = cause.__cause__ or cause.__context__
        if further is not None:
            left.append(further)
