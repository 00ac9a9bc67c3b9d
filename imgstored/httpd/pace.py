"""The rate of everything that is sent, shared fairly among clients."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes that are sent between two looks at the clock.
PIECE: Final = 1 << 18
#: Seconds of a wait between two looks whether the client is still there.
_LOOK: Final = 0.25


class Pace:
    """A bound on bytes a second of all connections together. For threads.

    A client with many connections gets no more than one with a single connection: of each client, one piece
    at a time waits for its turn.
    """

    def __init__(self, rate: int) -> None:
        """`rate` is in bytes a second; 0: no bound."""
        self._rate = rate
        self._lock = threading.Lock()
        self._next = 0.0
        self._turns: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    def set_rate(self, rate: int) -> None:
        """Sets the bound from now on; of what is on its way, too."""
        self._rate = rate

    @property
    def bounded(self) -> bool:
        """True if there is a bound."""
        return self._rate > 0

    @contextmanager
    def client(self, address: str) -> Iterator[threading.Lock]:
        """The turn of a client, for `wait`."""
        with self._lock:
            self._users[address] += 1
            turn = self._turns.setdefault(address, threading.Lock())
        try:
            yield turn
        finally:
            with self._lock:
                self._users[address] -= 1
                if not self._users[address]:
                    del self._users[address], self._turns[address]

    def wait(self, turn: threading.Lock, size: int, check: Callable[[], None] = lambda: None) -> None:
        """Waits until `size` bytes, a few hundred KiB at most, may be sent.

        Raises what `check` does, which is called from time to time.
        """
        rate = self._rate
        if not rate:
            return
        while not turn.acquire(timeout=_LOOK):
            check()
        try:
            with self._lock:
                at = max(time.monotonic(), self._next)
                self._next = at + size / rate
            # Bounded by the number of clients: each has one piece before this one.
            while (left := at - time.monotonic()) > 0:
                time.sleep(min(left, _LOOK))
                check()
        finally:
            turn.release()
