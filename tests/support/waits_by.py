"""The event loop of the tests and their daemons: `epoll`, or `poll` in `make unit-poll`."""

from __future__ import annotations

import os
from pathlib import Path

WAITS_BY = os.environ.get("IMGSTORE_TESTS_WAIT_BY", "epoll")


def has_epoll(pid: int) -> bool:
    """Whether a process has an epoll of its own open (proc(5)). Its descriptors come and go meanwhile."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return "anon_inode:[eventpoll]" in found
