"""The holder of a file lock that this process wants, as far as the system tells.

A user who may open a file may lock it: a read lock needs only a readable file.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.foreign_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: `struct flock` of fcntl(2), for 64-bit offsets: the fields, and which of them is the pid.
_FLOCK: Final = {"linux": ("@hhqqi0q", 4), "sunos": ("@hhqqii4l", 5)}
#: proc(5): `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`, the numbers of the device in hexadecimal.
_LINE: Final = re.compile(rb"\d+: FLOCK +\w+ +\w+ +(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")
_UIDS: Final = re.compile(r"^Uid:\t(\d+)\t(\d+)\t", re.MULTILINE)
_LOCKS: Final = Path("/proc/locks")
#: Bytes of the list that are read at most, and characters of a process's name.
_MAX_LIST: Final = 16 << 20
_MAX_NAME: Final = 40


class Holder(Struct, frozen=True):
    """A process that has a lock. Unknown facts are None."""

    pid: int
    name: str | None = None  #: printable; a process names itself
    uids: frozenset[int] | None = None  #: real and effective
    shared: bool = False  #: a read lock

    @property
    def foreign(self) -> bool:
        """True if the process certainly belongs neither to root nor to the daemon's own user."""
        return self.uids is not None and not self.uids <= {0, os.geteuid()}

    def __str__(self) -> str:
        of = [] if self.name is None else [self.name]
        of += [f"uid {uid}" for uid in sorted(self.uids or ()) if self.foreign and uid]
        return f"pid {self.pid}" + (f" ({', '.join(of)})" if of else "")


def of_lockf(fd: int) -> Holder | None:
    """A process whose POSIX lock prevents a write lock of the whole file; None if the system names none."""
    layout = next((found for name, found in _FLOCK.items() if sys.platform.startswith(name)), None)
    if layout is None:
        return None
    form, pid_at = layout
    fields = [0] * len(struct.unpack(form, bytes(struct.calcsize(form))))
    fields[0] = fcntl.F_WRLCK
    try:
        answer = struct.unpack(form, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(form, *fields)))
    except OSError:
        return None
    if answer[0] == fcntl.F_UNLCK or answer[pid_at] <= 0:
        return None  # free by now, or a process of another host or container
    return _process(answer[pid_at], shared=answer[0] == fcntl.F_RDLCK)


def of_flock(fd: int) -> Holder | None:
    """A process with a BSD lock of the file; None if the system names none. Only Linux lists these locks."""
    status = os.fstat(fd)
    wanted = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    return next((_process(pid) for pid, place in _flocks() if place == wanted), None)


def _flocks() -> Iterator[tuple[int, tuple[int, int, int]]]:
    try:
        with _LOCKS.open("rb") as file:
            listed = file.read(_MAX_LIST)
    except OSError:
        return
    for found in map(_LINE.match, listed.splitlines()):
        if found is not None:
            yield int(found[1]), (int(found[2], 16), int(found[3], 16), int(found[4]))


def _process(pid: int, *, shared: bool = False) -> Holder:
    folder = Path("/proc") / str(pid)
    try:
        uids = _UIDS.search((folder / "status").read_text(errors="replace"))
        name = (folder / "comm").read_text(errors="replace").strip()[:_MAX_NAME]
    except OSError:
        return Holder(pid, shared=shared)
    # A user who may only run a program as root is not root: the real uid shows that.
    both = None if uids is None else frozenset(map(int, uids.groups()))
    return Holder(pid, printable(name) or None, both, shared)
