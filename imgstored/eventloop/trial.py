"""Tries whether trio runs here, and a thread can wake it: all that the daemon does needs both."""

from __future__ import annotations

import sys
import threading
from typing import Final

from imgstored.errors import ConfigError

#: Seconds that all of it may take. It takes a millisecond, on a machine that has time for it.
_TIMEOUT: Final = 10.0


def waits_by(*, timeout: float = _TIMEOUT) -> str:
    """What trio waits by: `epoll`, `kqueue`, or, behind the stand-in, `poll` or `devpoll`.

    Blocks for some milliseconds. Raises `ConfigError`, which says what failed: the import, the run, or to be
    woken within `timeout` seconds. If all is well, no thread is left behind, and a fork may follow.
    """
    try:
        from imgstored.eventloop import wakeup
    except Exception as error:
        raise _failed(f"trio cannot be imported: {_named(error)}") from error
    found: list[str | Exception] = []

    def run() -> None:
        try:
            found.append(wakeup.woken())
        except Exception as error:  # noqa: BLE001  of whatever kind: it is said in a sentence
            found.append(error)

    # Not in ours: a trio that nobody can wake does not return, whatever limit it has.
    trial = threading.Thread(target=run, name="tries trio", daemon=True)
    trial.start()
    trial.join(timeout)
    if not found:
        raise _failed(f"trio was not woken by a thread within {timeout:g} s")
    trial.join()
    if isinstance(found[0], Exception):
        raise _failed(f"trio does not run: {_named(found[0])}") from found[0]
    return found[0]


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _failed(what: str) -> ConfigError:
    return ConfigError(
        f"{sys.executable} on {sys.platform}: {what}",
        hint="imgstored needs a Python with select.poll, and trio 0.27 or newer: install trio again, or take"
        " another CPython; if both are as they should be, report it",
    )
