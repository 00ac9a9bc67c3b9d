"""A user without rights who connects again and again, as fast as that goes.

usage: python -m tests.support.flood SOCKET
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support.crowd import NOBODY

if TYPE_CHECKING:
    from pathlib import Path


class Flood:
    """Several processes that do so; they end with the block. Nobody waits for their answers."""

    def __init__(self, path: Path, *, processes: int = 3) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(processes)
        ]

    def __enter__(self) -> Flood:
        for each in self._processes:
            assert each.stdout is not None
            assert each.stdout.readline() == b"connecting\n"
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._processes:
            with each:
                each.kill()


def main(path: str) -> None:
    """Connects, and says so once it has done so often; ends when it is killed."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    number = 0
    while True:
        with socket.socket(socket.AF_UNIX) as one, suppress(OSError):
            one.connect(path)
        number += 1
        if number == 1000:
            sys.stdout.write("connecting\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
