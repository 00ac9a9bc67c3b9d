"""Unmounts an image before it is destroyed: imgadm's `zfs receive` mounts what it receives, ours does not.

libzfs_core has no unmounting; this is umount2(2), which Linux and illumos have with the same arguments.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The list of what is mounted, on Linux and on illumos. A line begins with source, place and type.
_LISTS: Final = (Path("/proc/self/mounts"), Path("/etc/mnttab"))
#: Bytes of that list that are read at most.
_MAX_LIST: Final = 16 << 20
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


def unmount(dataset: str, pool: str) -> None:
    """Unmounts a dataset and its snapshots, wherever they are mounted. Raises `PoolError` if in use."""
    for place in reversed(list(places(dataset, _mounted()))):
        library = ctypes.CDLL(None, use_errno=True)
        if library.umount2(place, 0):
            number = ctypes.get_errno()
            where, why = os.fsdecode(place), os.strerror(number)
            raise PoolError(
                f'pool "{pool}": {dataset} cannot be unmounted from {where}: {why}',
                hint="something there is open: `fuser -vm` shows by which process",
                data={"errno": number},
            )


def places(dataset: str, mounted: bytes) -> Iterator[bytes]:
    """Where in a list of mounts the dataset and its snapshots are, in the order of the list."""
    wanted = dataset.encode()
    for line in mounted.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[2] == b"zfs" and fields[0].partition(b"@")[0] == wanted:
            yield _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), fields[1])


def _mounted() -> bytes:
    for path in _LISTS:
        if path.exists():
            with path.open("rb") as file:
                return file.read(_MAX_LIST)
    return b""
