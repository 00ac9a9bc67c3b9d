"""Closes sockets of strangers who were turned away: as many as come, in a few threads and processes.

What such a client has passed, and nobody has received, the kernel closes with the socket, and that may take
as long as the client likes. Sockets that wait behind such ones are given to a program that ends at once:
whatever its end has to wait for, the daemon has its threads and descriptors back.
"""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored.host import shortage, signals

if TYPE_CHECKING:
    import socket

log = structlog.get_logger(__name__)

#: The name of all of these threads.
NAME: Final = "closing sockets"
#: Threads that close sockets.
_THREADS: Final = 8
#: Sockets that wait for one until they are given away, all at once.
_BATCH: Final = 64
#: Such programs at the same time. Further sockets wait until one has ended.
_PROGRAMS: Final = 64
#: Seconds until the next one, unless it ends sooner, as most do.
_PATIENCE: Final = 0.5
#: It has what it inherits until its standard input ends.
_PROGRAM: Final = "/bin/cat"


class Closing:
    """Sockets to be closed. `close` may be called in any thread of a trio program, and never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[socket.socket] = deque()
        self._threads = 0
        self._giving = False
        self._programs: list[subprocess.Popen[bytes]] = []

    def close(self, down: socket.socket) -> None:
        """Closes a socket that was shut down, soon. Nobody may use it any more."""
        with self._lock:
            self._waiting.append(down)
            if self._threads < _THREADS:
                self._threads += 1
                work = self._close_all
            elif len(self._waiting) >= _BATCH and not self._giving:
                self._giving = True
                work = self._give_away
            else:
                return
        trio.lowlevel.start_thread_soon(work, lambda _: None, name=NAME)

    def _close_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                down = self._waiting.popleft()
            with suppress(OSError):
                down.close()

    def _give_away(self) -> None:
        """Gives what waits to programs, as long as it is much."""
        while True:
            self._programs = [each for each in self._programs if each.poll() is None]
            with self._lock:
                if len(self._waiting) < _BATCH or len(self._programs) >= _PROGRAMS:
                    self._giving = False
                    return
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._give(batch)
            except OSError as error:
                log.warning("sockets cannot be closed for now", error=shortage.why(error))
                with self._lock:
                    self._waiting.extend(batch)
                    self._giving = False
                return

    def _give(self, batch: list[socket.socket]) -> None:
        with signals.for_child():
            program = subprocess.Popen(  # noqa: S603  a fixed program, and descriptors
                [_PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[each.fileno() for each in batch],
                env={},
                cwd="/",
            )
        self._programs.append(program)
        for each in batch:
            each.close()  # it is not the last one that has it, and so nothing is closed with it
        assert program.stdin is not None
        program.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            program.wait(_PATIENCE)
