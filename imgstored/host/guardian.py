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

#: Reads a process group, and then another word when that has ended. If its input ends first, the daemon has
#: died.
_SCRIPT: Final = 'read -r group && ! read -r over && kill -s KILL -- "-$group"'


class Guardian:
    """A helper program, for a block that runs another program. Blocks for a moment. Raises `OSError`."""

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
                start_new_session=True,  # not to end with the daemon, if all of its group is killed
            )

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say("over")
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def watch(self, group: int) -> None:
        """Makes all processes of this group end with the daemon, until the block ends."""
        self._say(str(group))

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has killed the helper
            self._process.stdin.write(f"{word}\n".encode())
