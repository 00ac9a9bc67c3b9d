"""The watermark of a file: the download advances it, and the pump reads up to it."""

from __future__ import annotations

import threading

from imgstored.transfer.stages import Stopwatch


class Watermark:
    """A position that only grows, shared between threads.

    `position` counts bytes from the start of the file that may be read. Waiters are woken when it grows, when
    it is finished, and when it has failed; a failure is raised by every later call of `wait`.
    """

    def __init__(self) -> None:
        self.waiting = Stopwatch()  #: how long the reader waits; another one may be set before it begins
        self._changed = threading.Condition()
        self._position = 0
        self._finished = False
        self._failure: BaseException | None = None

    @property
    def position(self) -> int:
        """Bytes that may be read."""
        return self._position

    @property
    def ended(self) -> bool:
        """True if no more will come."""
        return self._finished or self._failure is not None

    def begin(self) -> None:
        """Says that bytes come from now on: waiting until now was not for the network."""
        with self._changed:
            self.waiting.restart()

    def advance(self, position: int) -> None:
        """Says that all bytes before `position` are there."""
        with self._changed:
            self._position = max(self._position, position)
            self._changed.notify_all()

    def finish(self) -> None:
        """Says that no more will come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Says that no more will come, and why. The first failure stands; a finished file cannot fail."""
        with self._changed:
            if not self._finished:
                self._failure = self._failure or error
            self._changed.notify_all()

    def wait(self, beyond: int) -> int:
        """Blocks until there is more than `beyond`, and returns the position.

        Returns a position that is not beyond when the file is finished. Raises what `fail` was given.
        """
        with self._changed:
            if not self._ready(beyond):
                with self.waiting:
                    self._changed.wait_for(lambda: self._ready(beyond))
            if self._failure is not None:
                raise self._failure
            return self._position

    def _ready(self, beyond: int) -> bool:
        return self._failure is not None or self._finished or self._position > beyond
