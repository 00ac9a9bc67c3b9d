"""The reason why a file system is full: no space, or no free inodes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_NO_INODES: Final = "no free inodes, the file system takes no more files"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """True if the error means that a file system is full."""
    return error.errno in _FULL


def why(error: OSError) -> str:
    """The error in words. ENOSPC may mean no space, or no inode for one more file.

    The file system of the file that the error names tells which; an error without a name is not about a new
    file.
    """
    place = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "")
    if error.errno == errno.ENOSPC and place.is_absolute() and free_inodes(place) == 0:
        return _NO_INODES
    return error.strerror or str(error) or type(error).__name__


def explain(error: OSError, place: Path | int) -> None:
    """Adds to the words of an error in `place` if inodes are the cause. Call it before any clean-up."""
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
    # File systems that create inodes as they need them (btrfs) do not count them.
    return status.f_favail if status.f_files else None


def free_bytes(place: Path) -> float:
    """The free bytes of a file system; infinity if it does not say."""
    try:
        status = os.statvfs(place)
    except OSError:
        return float("inf")
    return status.f_bavail * status.f_frsize
