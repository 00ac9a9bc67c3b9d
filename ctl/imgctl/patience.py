"""Waits for a daemon that went away: how long, and how often a request is asked again."""

from __future__ import annotations

import os
import time
from collections import deque

from imgctl.errors import NotConnectedError, RemoteError
from imgctl.text import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds for which imgctl waits, unless IMGCTL_RECONNECT says otherwise: a system starts anew what stopped.
_SECONDS = 120.0

#: What a note says when the daemon is back: it tells all from the beginning then.
BACK = "imgstored is back"

#: A daemon that went away so often within so many seconds is not waited for any more.
_LOSSES, _WITHIN = 5, 60.0
#: Seconds between two tries, at first and at most.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 1.0


def seconds() -> float | None:
    """For how long imgctl waits for a daemon that went away; None: not at all."""
    try:
        wanted = float(os.environ.get("IMGCTL_RECONNECT") or _SECONDS)
    except ValueError:
        return _SECONDS
    return wanted if wanted > 0 else None


def is_lost(error: RemoteError) -> bool:
    """True if the daemon went away, or says that it is about to."""
    return getattr(error, "lost", False) or error.data.get("stopping") is True


class Patience:
    """The patience with one request's daemon."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._losses: deque[float] = deque(maxlen=_LOSSES)

    def lost(self, error: RemoteError) -> str:
        """A sentence for people, about the daemon that went away. Raises `error` where that is too often."""
        now = time.monotonic()
        self._losses.append(now)
        if len(self._losses) == _LOSSES and now - self._losses[0] < _WITHIN:
            error.message += f"; that was {_LOSSES} times within {duration(_WITHIN)}"
            raise error
        return f"{error.message}; waiting for it, for up to {duration(self._seconds)}"

    def wait(self, error: RemoteError, connect: Callable[[], None]) -> None:
        """Returns once `connect` does. Raises `NotConnectedError` when the time is over."""
        deadline, pause = time.monotonic() + self._seconds, _FIRST_PAUSE
        while True:
            time.sleep(pause)
            try:
                connect()
            except RemoteError as still:
                if time.monotonic() > deadline:
                    raise NotConnectedError(
                        f"{error.message}, and was not back within {duration(self._seconds)}", still.hint
                    ) from still
            else:
                return
            pause = min(2 * pause, _LAST_PAUSE)
