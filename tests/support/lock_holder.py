"""A process that takes an image's lock in imgadm's way."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""

_TRY = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(1)
"""


def lock_file(folder: Path, uuid: str) -> Path:
    """Where imgadm's lock of an image is."""
    return folder / f"img.{uuid}.import.lock"


def is_free(folder: Path, uuid: str) -> bool:
    """Whether another process could take the lock now."""
    return (
        subprocess.run([sys.executable, "-c", _TRY, str(lock_file(folder, uuid))], check=False).returncode
        == 0
    )


class LockHolder:
    """Holds the lock as long as the block lasts, or until it is released."""

    def __init__(self, folder: Path, uuid: str) -> None:
        self._path = lock_file(folder, uuid)

    def __enter__(self) -> LockHolder:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def release(self) -> None:
        """Returns once the lock is free."""
        self._process.communicate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.release()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
