"""Ages by the wall clock, which may be wrong, and jump by years: at a boot without a battery, say.

What a time in the future belongs to would otherwise stay for years, as its age is negative; and to correct
such a time would be wrong, too, where it is the clock of now that is wrong.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

#: Things of the future that are remembered.
_MAX: Final = 10_000


class Ages:
    """Says what is too old. For one thread at a time."""

    def __init__(self) -> None:
        #: Things of the future: their times, and when they were first asked about.
        self._first: dict[Hashable, tuple[float, float]] = {}

    def is_over(self, thing: Hashable, then: float, seconds: float) -> bool:
        """True if `then`, seconds since the epoch, is longer ago than `seconds`.

        Where it is in the future, the time counts from the first question about that thing and that time.
        """
        now = time.time()
        if then <= now:
            self._first.pop(thing, None)
            return now - then > seconds
        if len(self._first) >= _MAX:
            self._first.clear()
        uptime = time.monotonic()
        if self._first.get(thing, (then, 0.0))[0] != then:
            del self._first[thing]
        return uptime - self._first.setdefault(thing, (then, uptime))[1] > seconds
