"""Ends the daemon's child processes with the daemon, also after kill -9: a helper program waits for its end.

Linux has PR_SET_PDEATHSIG for that. But it depends on the thread that started the program, does not reach
grandchildren, and has to be set between fork and exec. illumos has nothing of the kind, and SMF restarts the
daemon only after all processes that it started are gone.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgstored.host import signals

if TYPE_CHECKING:
    from types import TracebackType

#: Reads a word when the program has ended. If its input ends first, the daemon has died.
_SCRIPT: Final = "trap '' TERM; read -r over || kill -s KILL 0"


class Guardian:
    """A helper program, for a block that runs another program. Blocks for a moment. Raises `OSError`.

    The program belongs into `group` from its start, so there is no moment in which nobody would end it: once
    the helper has ended its group, no process can enter that any more.
    """

    def __init__(self) -> None:
        with signals.for_child():
            self._process = subprocess.Popen(  # noqa: S603  a fixed program
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={},
                cwd="/",
                process_group=0,  # not to end with the daemon, if all of its group is killed
            )
        self.group = self._process.pid  #: for `subprocess.Popen(process_group=…)`

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has killed the helper
            self._process.stdin.write(b"over\n")
        self._process.stdin.close()
        self._process.wait()
