"""A user without rights who does what a test says, in a folder: nobody, if root runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

UID = 65534 if os.geteuid() == 0 else os.geteuid()

# Python and the folder are found as root: those above may be closed to others.
_PRELUDE = """
import errno, fcntl, os, sys, time
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
args = sys.argv[2:]
def done(word="done"):
    print(word, flush=True)
    return sys.stdin.readline()
"""

#: Takes a lock of a file as the arguments say (FILE, flock or lockf, LOCK_SH or LOCK_EX), and keeps it.
LOCK = """
name, call, kind = args
fd = os.open(name, os.O_RDWR if kind == "LOCK_EX" and call == "lockf" else os.O_RDONLY)
getattr(fcntl, call)(fd, getattr(fcntl, kind))
done()
"""

#: Puts links to VICTIM in the place of each file that imgctl makes, and of those whose names can be guessed;
#: once the first are there it makes the file `planted`, and ends when there is a file `enough`.
PLANT = """
victim = args[0]
seen = set()
done("ready")
while not os.path.exists("enough"):
    for name in os.listdir("."):
        if not name.startswith(".imgctl-") or name in seen or os.path.islink(name):
            continue
        seen.add(name)
        stem = name.rsplit(".", 1)[0]
        for ending in ("", ".manifest", ".qcow2", ".tmp", ".new", ".partial", ".partial.qcow2"):
            planted = stem + ending
            seen.add(planted)
            try:
                os.unlink(planted)
            except FileNotFoundError:
                pass
            os.symlink(victim, planted)
    if seen and not os.path.exists("planted"):
        os.close(os.open("planted", os.O_CREAT))
        if args[1:] == ["once"]:
            break
done()
"""


class OtherUser:
    """Runs `program` as that user until the block ends: Python, whose `done` says so and waits for `go`."""

    def __init__(self, folder: Path, program: str, *arguments: str) -> None:
        self._command = [sys.executable, "-c", _PRELUDE + program, str(folder), *arguments]

    def __enter__(self) -> OtherUser:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.wait()
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> None:
        """Until it has got so far."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            status = self._process.wait()
            self._close()
            raise RuntimeError(f"the other user's program ended with {status}")

    def go(self) -> None:
        """It may go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
