"""A stand-in for `select.devpoll`, which CPython has only on illumos."""

from __future__ import annotations

import os
import select


class FakeDevpoll:
    """poll(4D) as CPython's select.devpoll hands it on, and illumos's uts/common/io/devpoll.c has it.

    Changes are written with the next `poll`. What is added twice has the events of both. It keeps files, not
    numbers: of a descriptor that was closed it says POLLNVAL, and of one that has another file by now nothing
    at all, which is the worst of what "indeterminate" may be.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed = False
        self._kept: dict[int, tuple[tuple[int, int] | None, int]] = {}
        self._unwritten: list[tuple[int, int | None]] = []

    def register(self, fd: int, eventmask: int) -> None:
        self.calls.append(f"register {fd}")
        self._unwritten.append((fd, eventmask))

    def modify(self, fd: int, eventmask: int) -> None:
        self.calls.append(f"modify {fd}")
        self._unwritten += [(fd, None), (fd, eventmask)]

    def unregister(self, fd: int) -> None:
        self.calls.append(f"unregister {fd}")
        self._unwritten.append((fd, None))

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        for fd, mask in self._unwritten:
            if mask is None:
                self._kept.pop(fd, None)
            else:
                self._kept[fd] = (file_of(fd), self._kept.get(fd, (None, 0))[1] | mask)
        self._unwritten.clear()
        gone = [(fd, select.POLLNVAL) for fd in self._kept if file_of(fd) is None]
        alive = select.poll()
        for fd, (file, mask) in self._kept.items():
            if file is not None and file_of(fd) == file:
                alive.register(fd, mask)
        return gone + alive.poll(0 if gone else timeout)

    def close(self) -> None:
        self.closed = True


def file_of(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor is; None: it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
