"""Reports the state of the daemon to its parent: systemd, by sd_notify(3), and `--detach`, by a pipe."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import MutableMapping

logger = structlog.get_logger(__name__)

#: Seconds that the parent may delay us.
_TIMEOUT: Final = 1.0


class Notifier:
    """Reports that the daemon is ready, stopping or reading its configuration, and that it is alive.

    `address` is a datagram socket's path, or `@name` of an abstract one; without it there are no reports.
    `alive` is the greatest number of seconds between two signs of life, None if nobody waits for them.
    `waiting` is a pipe, which gets a byte and is closed when the daemon is ready.
    """

    def __init__(
        self, address: str | None = None, *, alive: float | None = None, waiting: int | None = None
    ) -> None:
        self._address = address
        self._alive = alive
        self._waiting = waiting

    @classmethod
    def of(cls, environment: MutableMapping[str, str], *, waiting: int | None = None) -> Notifier:
        """The notifier of the environment; removes its variables, which are not for child processes."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        asked = environment.pop("WATCHDOG_PID", str(os.getpid()))
        watched = microseconds.isdecimal() and int(microseconds) > 0 and asked == str(os.getpid())
        return cls(address or None, alive=int(microseconds) / 1e6 if watched else None, waiting=waiting)

    def ready(self) -> None:
        """Reports that the daemon answers requests; also after `reloading`."""
        self._say("READY=1")
        if self._waiting is not None:
            # Nobody may be waiting any more.
            with suppress(BrokenPipeError):
                os.write(self._waiting, b"\n")
            os.close(self._waiting)
            self._waiting = None

    def reloading(self) -> None:
        """Reports that the daemon reads its configuration again; `ready` follows."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Reports that the daemon is stopping."""
        self._say("STOPPING=1")

    async def watch(self) -> None:
        """Sends signs of life, twice as often as necessary; none while the event loop hangs."""
        if self._address is None or self._alive is None:
            return
        while True:
            self._say("WATCHDOG=1")
            await trio.sleep(self._alive / 2)

    def _say(self, state: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.settimeout(_TIMEOUT)
                speaker.connect(address)
                speaker.sendall(state.encode())
        except OSError as error:
            logger.warning("the parent process could not be notified", state=state, error=str(error))
