"""Files that clients have opened: their file system may be a network disk that is gone, and never answer.

Then each call, also `fstat` and `close`, waits in the kernel, and nothing ends it. So such calls run in a
thread that is left behind if necessary, and callers wait no longer than they like.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

#: Seconds for one call: a server that restarts takes up to a minute or two.
SILENCE: Final = 120.0
#: Files at the same time, including those that do not answer; each has a thread, also after its user has
#: left.
MAX_FILES: Final = 64
#: Seconds between two calls of `check`.
_PAUSE: Final = 0.1
#: Threads that close files; further files wait for one.
_CLOSERS: Final = 8

_free = threading.BoundedSemaphore(MAX_FILES)


class ForeignFile:
    """An open file; leaving the block ends its use. One thread at a time calls it; `fail` is for any thread.

    A waiting caller calls `check` every now and then, which may raise. Raises `OSError` if too many files do
    not answer.
    """

    def __init__(self, fd: int, *, check: Callable[[], None] = lambda: None) -> None:
        """Copies the descriptor, which its owner still has to close."""
        if not _free.acquire(blocking=False):
            raise TimeoutError(f"{MAX_FILES} files are in use, or their disks do not answer")
        self._check = check
        self._changed = threading.Condition()
        self._question: Callable[[int], object] | None = None
        self._answer: Callable[[], object] | None = None
        self._failure: BaseException | None = None
        self._ended = False
        self._released: list[int] = []  # descriptors that an abandoned call may still use
        try:
            self._fd = os.dup(fd)
        except BaseException:
            _free.release()
            raise
        # Neither a thread of trio's nor of a thread pool: the process waits for those at its end.
        try:
            threading.Thread(target=self._work, name="foreign file", daemon=True).start()
        except BaseException:  # there is no thread for it
            os.close(self._fd)
            _free.release()
            raise

    def __enter__(self) -> ForeignFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the copy, now or once an abandoned call returns. Never waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Makes the call under way, and all later ones, raise `error`."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def release(self, fd: int) -> None:
        """Closes another descriptor of that disk once no call that may use it is under way. Never waits."""
        with self._changed:
            self._released.append(fd)

    def __call__(self, call: Callable[[int], T], *, seconds: float | None = None) -> T:
        """Calls `call` with the descriptor; returns its result, or raises its error. Blocks.

        Also raises `TimeoutError` after `SILENCE` or `seconds` without an answer, the error of `fail`, and
        what `check` raises; after that the file cannot be used any more.
        """
        seconds = SILENCE if seconds is None else seconds
        deadline = time.monotonic() + seconds
        with self._changed:
            self._refuse_failed()
            self._question = call
            self._changed.notify_all()
            while self._answer is None:
                if time.monotonic() > deadline:
                    self._failure = TimeoutError(f"its disk has not answered for {seconds:.0f} seconds")
                    raise self._failure
                self._changed.wait(_PAUSE)
                self._refuse_failed()
                try:
                    self._check()
                except BaseException as error:
                    self._failure = error
                    raise
            answer, self._answer = self._answer, None
        return answer()  # type: ignore[return-value]  # it is the answer to this question

    def _refuse_failed(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (question := self._next()) is not None:
                self._close_released()
                answer = _answer_of(question, self._fd)
                with self._changed:
                    self._answer = answer
                    self._changed.notify_all()
                del question, answer
        finally:
            self.release(self._fd)
            self._close_released()
            _free.release()

    def _close_released(self) -> None:
        with self._changed:
            released, self._released = self._released, []
        for fd in released:
            with suppress(OSError):
                os.close(fd)

    def _next(self) -> Callable[[int], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._question is not None or self._ended)
            question, self._question = self._question, None
            return None if self._ended else question


def _answer_of(question: Callable[[int], object], fd: int) -> Callable[[], object]:
    try:
        result = question(fd)
    except Exception as error:  # noqa: BLE001  (raised where it was asked)
        failure = error

        def fail() -> object:
            raise failure

        return fail
    return lambda: result


class _Closer:
    """Closes descriptors in a few threads, which end when there is nothing left to close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: deque[int] = deque()
        self._threads = 0

    def close(self, fd: int) -> None:
        with self._lock:
            self._left.append(fd)
            if self._threads == _CLOSERS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="closing files", daemon=True).start()
        except (RuntimeError, MemoryError):  # the next one closes it, too
            with self._lock:
                self._threads -= 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._left:
                    self._threads -= 1
                    return
                fd = self._left.popleft()
            with suppress(OSError):
                os.close(fd)


#: Closes a client's descriptor soon; the caller must not use it any more. Never waits, never raises.
close = _Closer().close
