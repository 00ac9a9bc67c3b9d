"""Questions to the person at the terminal, whatever standard input and output are: `yes |` is no answer."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TextIO

from imgctl.session import flush, is_terminal

_TERMINAL = "/dev/tty"
#: Characters of an answer.
_LONGEST = 1000


def ask(question: str) -> str | None:
    """The line that is typed in answer, "" at its end; None where there is no terminal.

    imgadm asks on standard input and output where these are the terminal, and on the process's own otherwise.
    """
    with ExitStack() as stack:
        reading, writing = sys.stdin, sys.stdout
        if not (is_terminal(reading) and is_terminal(writing)):
            own = _own(stack)
            if own is None:
                return None
            reading = reading if is_terminal(reading) else own[0]
            writing = writing if is_terminal(writing) else own[1]
        flush(sys.stdout)
        writing.write(question)
        writing.flush()
        return reading.readline(_LONGEST).strip()


def _own(stack: ExitStack) -> tuple[TextIO, TextIO] | None:
    """The controlling terminal, to read from and to write to."""
    try:
        fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    # One object for both would have to be seekable.
    reading = stack.enter_context(os.fdopen(fd, "r", errors="replace"))
    writing = stack.enter_context(os.fdopen(os.dup(fd), "w", errors="backslashreplace"))
    return reading, writing
