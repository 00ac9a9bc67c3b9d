"""Runs a command on its own terminal, like a user at the keyboard."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

#: Makes standard input the terminal that signals come from, and becomes the command.
_TAKE = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""

#: Far longer than anything takes.
TIMEOUT = 60.0


class Terminal:
    """Runs a command; what it wrote is in `shown`."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, size: tuple[int, int] = (24, 80)
    ) -> None:
        """`size` is in lines and columns."""
        self._command = [sys.executable, "-c", _TAKE, *command]
        self._environment = {name: value for name, value in environment.items() if name not in _SIZES}
        self._ours, self._theirs = pty.openpty()
        self.shown = b""
        termios.tcsetwinsize(self._ours, size)
        self._before = self._settings()

    def __enter__(self) -> Terminal:
        theirs = self._theirs
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        os.close(self._ours)
        os.close(self._theirs)

    def wait_for(self, text: str) -> bytes:
        """Reads until it was written, after what was read before; returns all that came meanwhile."""
        start, deadline = len(self.shown), time.monotonic() + TIMEOUT
        while text.encode() not in self.shown[start:]:
            assert time.monotonic() < deadline, f"{text!r} was not written: {self.shown[start:]!r}"
            self._read(0.1)
        return self.shown[start:]

    def read_for(self, seconds: float) -> None:
        """Reads what comes in that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def read_some(self, seconds: float) -> bool:
        """Reads what comes within that time; whether something did."""
        return self._read(seconds)

    def type(self, keys: str) -> None:
        """As on a keyboard; Ctrl-C is "\x03"."""
        os.write(self._ours, keys.encode())

    def resize(self, lines: int, columns: int) -> None:
        """The window gets another size; the kernel sends SIGWINCH."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self) -> int:
        """Waits until the command has ended; returns its exit status, or the signal as a negative number."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.shown!r}"
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Whether the terminal's settings are those of before the command."""
        return self._settings() == self._before

    def _settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if ready:
            self.shown += os.read(self._ours, 65536)
        return bool(ready)


#: Of the environment, what would hide how large the window is.
_SIZES = ("LINES", "COLUMNS")


def screen(shown: bytes) -> list[str]:
    """What stays on the screen, as far as carriage returns, new lines and cursor-ups decide that."""
    rows, row, column = [""], 0, 0
    for piece in re.split(r"(\r|\n|\x1b\[[0-9;?]*[A-Za-z])", shown.decode()):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif piece == "\x1b[A":
            row -= 1
        elif not piece.startswith("\x1b"):
            line = rows[row].ljust(column)
            rows[row] = line[:column] + piece + line[column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in rows if line.strip()]
