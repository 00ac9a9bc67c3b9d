"""Calls that libzfs_core lacks: the health of a pool, and the mounting of datasets.

A call to a suspended pool would hang, so its health is read elsewhere. imgadm's `zfs receive` mounts what it
receives, so an image is unmounted before it is destroyed; and a container image is mounted while its layer is
unpacked. umount2(2) is the same on Linux and illumos; mount(2) has other arguments there.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager, suppress
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
    """The health of a pool: `ONLINE`, `DEGRADED`, `SUSPENDED`, …; None if the system does not say."""
    try:
        with (folder / pool / "state").open("rb") as file:
            word = file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError:
        return None
    return word if word.isalpha() and word.isupper() else None


#: Linux: MS_NOSUID, MS_NODEV and MS_NOEXEC of sys/mount.h: nothing in a layer can act while it is unpacked.
_FLAGS: Final = 2 | 4 | 8
#: illumos: MS_OPTIONSTR of sys/mount.h, and the length that its libzfs gives to the buffer of options.
_OPTIONSTR: Final = 0x100
_MAX_OPTIONS: Final = 1024
#: The folder for mounts, which only root may write.
_FOLDER: Final = Path("/var/run")
#: The mount point in such a folder. A mounted filesystem has its own mode; the folder around it protects
#: files that a layer makes writable for all, and keeps others from using the mount.
_PLACE: Final = "image"


@contextmanager
def mounted_for_writing(dataset: str, pool: str) -> Iterator[int]:
    """Mounts a filesystem, even a readonly one, where only root can see it; yields a descriptor of it.

    Raises `PoolError`.
    """
    folder = _FOLDER / f"imgstored-{dataset.replace('/', '-')}"
    place = folder / _PLACE
    try:
        _make_private(folder)
        place.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _failed(pool, f"{folder} cannot be made", error.errno or 0) from error
    try:
        _mount(dataset, place, pool)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        unmount(dataset, pool)
        with suppress(OSError):
            place.rmdir()
            folder.rmdir()


def _make_private(folder: Path) -> None:
    """Makes a folder, if necessary, that only this process's user may use. Raises `OSError`."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(fd, os.geteuid(), -1)
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _mount(dataset: str, folder: Path, pool: str) -> None:
    mount = ctypes.CDLL(None, use_errno=True).mount
    source, place = dataset.encode(), os.fsencode(folder)
    if sys.platform == "linux":
        failed = mount(source, place, b"zfs", ctypes.c_ulong(_FLAGS), b"rw")
    else:
        options = ctypes.create_string_buffer(b"rw,nosuid,nodevices,noexec", _MAX_OPTIONS)
        failed = mount(source, place, _OPTIONSTR, b"zfs", None, 0, options, _MAX_OPTIONS)
    if failed:
        raise _failed(pool, f"{dataset} cannot be mounted at {folder}", ctypes.get_errno())


def _failed(pool: str, what: str, number: int) -> PoolError:
    return PoolError(
        f'pool "{pool}": {what}: {os.strerror(number)}',
        hint="the daemon unpacks the layers of container images there; may it mount filesystems?",
        data={"errno": number},
    )


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
