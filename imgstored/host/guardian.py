"""Has programs that the daemon runs end with it, also by kill -9: a second program waits for its end.

Linux has PR_SET_PDEATHSIG for that, which ends with the thread that started the program, reaches none of
what that starts itself, and has to be set between fork and exec. illumos has nothing; and there SMF starts
the daemon again only once all that it has started is gone.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgstored.host import signals

if TYPE_CHECKING:
    from types import TracebackType

#: It gets a process group, and another word when that is over; or the end, when whoever writes has ended.
_SCRIPT: Final = 'read -r group && ! read -r over && kill -s KILL -- "-$group"'


class Guardian:
    """For a block that runs a program. Blocks for a moment. Raises `OSError`."""

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
        """Has all processes of this group end with the daemon, until the block ends."""
        self._say(str(group))

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has killed it
            self._process.stdin.write(f"{word}\n".encode())
