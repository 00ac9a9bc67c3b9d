"""When to try again. Pure: random numbers and times are arguments."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Answers that mean "not now": too many requests (420, 429, 509), the wrong back-end (421), and a
#: server or a gateway that is overloaded (529) or restarting.
TRANSIENT_STATUSES = frozenset({408, 420, 421, 425, 429, 500, 502, 503, 504, 509, 529})


class Backoff(Struct, frozen=True):
    """Exponential back-off with full jitter in its upper half. All in seconds."""

    first: float = 0.5
    most: float = 30.0

    def delay(self, failures: int, random: Callable[[], float], asked: float | None = None) -> float:
        """The seconds to rest after `failures` (1, 2, …) in a row; `random` gives values in [0, 1).

        `asked` is what the server asked for (Retry-After): no less than that, but no more than `most`.
        """
        whole = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        delay = whole * (0.5 + 0.5 * random())
        return min(self.most, max(delay, asked or 0.0))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer's Retry-After asks for, or None (RFC 9110, 10.2.3). Names are in lower case.

    A date is taken relative to the answer's own Date, so that nobody's clock matters.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(int(value[:9]))
    try:
        until = email.utils.parsedate_to_datetime(value)
        since = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
