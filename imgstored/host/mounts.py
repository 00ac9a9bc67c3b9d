"""The mounted file systems, from the kernel: proc(5)'s mountinfo on Linux, mnttab(5) on illumos."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of a list that are read at most.
_MAX_LIST: Final = 16 << 20
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Mount(Struct, frozen=True):
    """A mount as the kernel lists it."""

    device: str  #: Linux: MAJOR:MINOR, illumos: a number; it identifies the mount
    place: bytes
    kind: str  #: such as "ext4" or "fuse.imgstored"
    source: str  #: such as "/dev/sda1", or a dataset


def mounted() -> list[Mount]:
    """All mounts, a later one over an earlier one; empty if there is no list. Raises `OSError`."""
    for path, parsed in _LISTS:
        try:
            with path.open("rb") as file:
                return list(parsed(file.read(_MAX_LIST)))
        except FileNotFoundError:
            continue
    return []


def mounted_at(path: Path) -> Mount | None:
    """The topmost mount at exactly that path (absolute, without links). Never waits for its server."""
    place = os.fsencode(path)
    return next((mount for mount in reversed(mounted()) if mount.place == place), None)


def holding(path: Path, listed: list[Mount]) -> Mount | None:
    """The listed mount on which a path (absolute, without links) is; the path need not exist."""
    above = [os.fsencode(place) for place in (path, *path.parents)]
    found = [mount for mount in listed if mount.place in above]
    deepest = max((len(mount.place) for mount in found), default=0)
    return next((mount for mount in reversed(found) if len(mount.place) == deepest), None)


def storage_of(path: Path) -> str:
    """The storage of a folder: two folders with the same storage share its free space. Raises `OSError`.

    The datasets of a ZFS pool share it, as do the subvolumes of one device.
    """
    try:
        mount = holding(Path(os.path.realpath(path)), mounted())
    except OSError:
        mount = None  # then only the device identifies the storage
    if mount is not None and mount.kind == "zfs":
        return storage_of_zfs(mount.source)
    if mount is not None and mount.source.startswith("/dev/"):
        return mount.source
    return f"device {path.stat().st_dev}"


def storage_of_zfs(dataset: str) -> str:
    """The storage of a ZFS dataset."""
    return f"zpool {dataset.partition('/')[0]}"


def of_mountinfo(text: bytes) -> Iterator[Mount]:
    """proc(5): `id parent major:minor root mount-point options optional... - type source super-options`."""
    for line in text.splitlines():
        place, _, what = line.partition(b" - ")
        fields, kind = place.split(), what.split()
        if len(fields) > 4 and len(kind) > 1:
            yield Mount(_text(fields[2]), _unescaped(fields[4]), _text(kind[0]), _text(_unescaped(kind[1])))


def of_mnttab(text: bytes) -> Iterator[Mount]:
    """mnttab(5): `special mount-point fstype options time`, with tabs between them, so names have spaces."""
    for line in text.split(b"\n"):
        fields = line.split(b"\t")
        if len(fields) > 3:
            options = dict(option.partition(b"=")[::2] for option in fields[3].split(b","))
            yield Mount(_text(options.get(b"dev", b"")), fields[1], _text(fields[2]), _text(fields[0]))


def _text(field: bytes) -> str:
    return os.fsdecode(field)


def _unescaped(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


_LISTS: tuple[tuple[Path, Callable[[bytes], Iterator[Mount]]], ...] = (
    (Path("/proc/self/mountinfo"), of_mountinfo),
    (Path("/etc/mnttab"), of_mnttab),
)
