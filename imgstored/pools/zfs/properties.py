"""The properties of received images. Pure.

libzfs_core takes a property with a fixed set of values as the kernel's number for the value, and ignores
anything else without an error; so this module translates and checks them. The numbers are those of OpenZFS
include/sys/fs/zfs.h and module/zcommon/zfs_prop.c, and the same on illumos.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The default properties of images: nothing changes an image, and nothing mounts it by itself. Clones inherit
#: from their parent and not from their origin, so they are writable.
DEFAULT: Final[Mapping[str, str]] = {"readonly": "on", "canmount": "noauto"}

_ON_OFF: Final = {"off": 0, "on": 1}
_NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    "readonly": _ON_OFF,
    "canmount": {"off": 0, "on": 1, "noauto": 2},
    "atime": _ON_OFF,
    "devices": _ON_OFF,
    "exec": _ON_OFF,
    "setuid": _ON_OFF,
    "snapdir": {"hidden": 0, "visible": 1},
    "compression": {"on": 1, "off": 2, "lzjb": 3, "gzip": 10, "zle": 14, "lz4": 15},
    "primarycache": {"none": 0, "metadata": 1, "all": 2},
}
#: The properties that a volume has, too.
_OF_VOLUMES: Final = frozenset(("readonly", "compression", "primarycache"))

#: A user property: zfsprops(7), "User Properties".
_USER: Final = re.compile(r"[a-z0-9._:-]{0,200}:[a-z0-9._:-]{0,200}")
_MAX_VALUE: Final = 1024


def checked(properties: Mapping[str, str]) -> dict[str, int | str]:
    """The properties in the kernel's form. Raises `ConfigError` for one that an image cannot have."""
    return {name: _value(name, value) for name, value in properties.items()}


def of_kind(properties: Mapping[str, int | str], *, volume: bool) -> dict[str, int | str]:
    """The given properties that a volume, or a filesystem, has."""
    return {
        name: value
        for name, value in properties.items()
        if not volume or name in _OF_VOLUMES or name not in _NUMBERS
    }


def _value(name: str, value: str) -> int | str:
    if _USER.fullmatch(name):
        if len(value.encode()) > _MAX_VALUE or not value.isprintable():
            raise ConfigError(
                f'the property "{name}" cannot have this value',
                hint=f"it takes up to {_MAX_VALUE} printable characters",
            )
        return value
    values = _NUMBERS.get(name)
    if values is None:
        raise ConfigError(
            f'images cannot be given the property "{name}"',
            hint="you can set user properties (with a colon), and " + ", ".join(sorted(_NUMBERS)),
        )
    if value not in values:
        raise ConfigError(f'the property "{name}" cannot be "{value}"', hint="it can be " + ", ".join(values))
    return values[value]
