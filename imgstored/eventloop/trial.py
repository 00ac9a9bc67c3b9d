"""Tries whether trio runs here, and a thread can wake it: all that the daemon does needs both."""

from __future__ import annotations

import sys
from typing import Final

from imgstored.errors import ConfigError

#: Seconds that one wake-up may take. It takes well below a millisecond, on a machine that has time for it.
_PATIENCE: Final = 10.0


def waits_by(*, patience: float = _PATIENCE) -> str:
    """What trio waits by: `epoll`, `kqueue`, or, behind the stand-in, `poll` or `devpoll`.

    Blocks for some milliseconds; not for trio's own thread. Raises `ConfigError`, which says what failed: the
    import, the run, or to be woken within `patience` seconds. Leaves no thread behind: a fork may follow.
    """
    try:
        from imgstored.eventloop import wakeup
    except Exception as error:
        raise _failed(f"trio cannot be imported: {_named(error)}") from error
    try:
        found = wakeup.woken(patience)
    except Exception as error:
        raise _failed(f"trio does not run: {_named(error)}") from error
    if found is None:
        raise _failed(f"trio was not woken by a thread within {patience:g} s")
    return found


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _failed(what: str) -> ConfigError:
    return ConfigError(
        f"{sys.executable} on {sys.platform}: {what}",
        hint="imgstored needs a Python with select.poll, and trio 0.27 or newer: install trio again, or take"
        " another CPython; if both are as they should be, report it",
    )
