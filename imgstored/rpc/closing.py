"""Closes sockets of refused clients, in a few threads and processes, however many they are.

The kernel closes a descriptor that such a client has passed, and nobody has received, with the socket, and
that may take as long as the client likes. Sockets that wait behind such a socket go to a program that ends at
once: its end may have to wait, but the daemon has its threads and descriptors back.
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

#: The name of the threads.
NAME: Final = "closing sockets"
#: Threads that close sockets.
_THREADS: Final = 8
#: Waiting sockets at which all of them go to a program.
_BATCH: Final = 64
#: Programs at the same time. Further sockets wait until one has ended.
_PROGRAMS: Final = 64
#: Seconds to wait for a program's end, which usually comes at once, before the next one may start.
_TIMEOUT: Final = 0.5
#: The program: it keeps what it inherits until its standard input ends.
_PROGRAM: Final = "/bin/cat"


class Closing:
    """Sockets to be closed. `close` may be called in any thread of a trio program, and never waits.

    Where no thread can be had, they wait until the next one is closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[socket.socket] = deque()
        self._threads = 0
        self._giving = False
        self._programs: list[subprocess.Popen[bytes]] = []

    def close(self, down: socket.socket) -> None:
        """Closes soon a socket that was shut down. The caller must not use it any more."""
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
        try:
            trio.lowlevel.start_thread_soon(work, lambda _: None, name=NAME)
        except (RuntimeError, MemoryError) as error:
            log.warning("sockets cannot be closed yet", error=str(error))
            with self._lock:
                if work == self._close_all:
                    self._threads -= 1
                else:
                    self._giving = False

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
        """Gives waiting sockets to programs, as long as there are many."""
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
            program.wait(_TIMEOUT)
