"""Whether a server still sends fast enough. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """Watches one request. Times in seconds of any one clock, rates in bytes a second.

    `silence`: no byte for that long is a stall. `rate`: fewer bytes than that, averaged over `window`, is
    one, too; 0 switches this off.
    """

    silence: float
    rate: int
    window: float
    started: float
    _last: tuple[float, int] = field(init=False)
    _mark: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self._last = self._mark = (self.started, 0)

    def fault(self, now: float, fetched: int) -> str | None:
        """What is wrong at `now`, when `fetched` bytes are there, or None. To be asked now and then."""
        if fetched != self._last[1]:
            self._last = (now, fetched)
        elif now - self._last[0] >= self.silence:
            return f"the server sent nothing for {self.silence:g} s"
        since, then = self._mark
        if now - since >= self.window:
            if fetched - then < self.rate * (now - since):
                return f"the server sends less than {self.rate} bytes a second"
            self._mark = (now, fetched)
        return None
