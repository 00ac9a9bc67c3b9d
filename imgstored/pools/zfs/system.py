"""Calls that libzfs_core lacks: the health of a pool, and the unmounting of a dataset.

A call to a suspended pool would hang, so its health is read elsewhere. imgadm's `zfs receive` mounts what it
receives, so an image is unmounted before it is destroyed: by umount2(2), which Linux and illumos have with
the same arguments.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.errors import PoolError
from imgstored.host.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgstored.host.mounts import Mount

#: On Linux, a folder for each pool that is imported, with a file `state` of one word.
_KSTAT: Final = Path("/proc/spl/kstat/zfs")

_LONGEST: Final = 32


def health(pool: str, folder: Path = _KSTAT) -> str | None:
    """`ONLINE`, `DEGRADED`, `SUSPENDED`, …; None where the system does not say."""
    try:
        with (folder / pool / "state").open("rb") as file:
            word = file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError:
        return None
    return word if word.isalpha() and word.isupper() else None


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
