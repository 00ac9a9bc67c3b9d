"""The reason why a file system is full: no space, or no free inodes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_NO_INODES: Final = "no free inodes, the file system takes no more files"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """True if that is what the error means."""
    return error.errno in _FULL


def why(error: OSError) -> str:
    """The error in words: of no room and of no room for one more file the system says the same (ENOSPC).

    Which of them it is can be seen at the file that the error names; what names none had its file already.
    """
    place = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "")
    if error.errno == errno.ENOSPC and place.is_absolute() and free_inodes(place) == 0:
        return _NO_INODES
    return error.strerror or str(error) or type(error).__name__


def explain(error: OSError, place: Path | int) -> None:
    """Adds to the words of an error in `place` that it is inodes, before what was half made is removed."""
    if is_full(error):
        error.strerror = f"{why(error)}{cause(place)}"


def cause(place: Path | int) -> str:
    """The addition to a message about a full file system: nothing, or that inodes are the cause."""
    return f": {_NO_INODES}" if free_inodes(place) == 0 else ""


def free_inodes(place: Path | int) -> int | None:
    """The number of free inodes; None if the file system has no limit, or does not report it."""
    if isinstance(place, Path):
        place = next((each for each in (place, *place.parents) if os.path.lexists(each)), place)
    try:
        status = os.statvfs(place)
    except OSError:
        return None
    # Those that make inodes as they need them (btrfs) have none to count.
    return status.f_favail if status.f_files else None


def free_bytes(place: Path) -> float:
    """The free bytes of a file system; infinity where it does not say."""
    try:
        status = os.statvfs(place)
    except OSError:
        return float("inf")
    return status.f_bavail * status.f_frsize
