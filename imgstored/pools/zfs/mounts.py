"""Unmounts an image before it is destroyed: imgadm's `zfs receive` mounts what it receives, ours does not.

libzfs_core has no unmounting; this is umount2(2), which Linux and illumos have with the same arguments.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from imgstored.errors import PoolError
from imgstored.host.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgstored.host.mounts import Mount


def unmount(dataset: str, pool: str) -> None:
    """Unmounts a dataset and its snapshots, wherever they are mounted. Raises `PoolError` if in use."""
    for place in reversed(list(places(dataset, mounted()))):
        library = ctypes.CDLL(None, use_errno=True)
        if library.umount2(place, 0):
            number = ctypes.get_errno()
            where, why = os.fsdecode(place), os.strerror(number)
            raise PoolError(
                f'pool "{pool}": {dataset} cannot be unmounted from {where}: {why}',
                hint="a process has a file open there: `fuser -c` shows which",
                data={"errno": number},
            )


def places(dataset: str, listed: Iterable[Mount]) -> Iterator[bytes]:
    """The mount points of the dataset and its snapshots, in the order of the list."""
    for mount in listed:
        if mount.kind == "zfs" and mount.source.partition("@")[0] == dataset:
            yield mount.place
