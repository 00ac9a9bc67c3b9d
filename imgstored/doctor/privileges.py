"""The privileges of the process beyond being root: capabilities on Linux, privileges on illumos.

A container's root, or a service's, need not have what ZFS asks for.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: proc(5). illumos has a file of that name, too, a binary one (proc(5) there, `pstatus_t`).
_PROCESS: Final = Path("/proc/self/status")
#: capabilities(7): mounts, and all that ZFS asks for.
_CAP_SYS_ADMIN: Final = 21

#: privileges(7): ZFS channel programs, datasets, and the receive.
_NEEDED: Final = ("sys_config", "sys_mount", "sys_fs_import")
#: priv_set_t of getppriv(2): `PRIV_EFFECTIVE`.
_EFFECTIVE: Final = b"Effective"


def lacking() -> list[str]:
    """The names of what ZFS needs and this process may not do; empty also where the system does not say."""
    return _BY_PLATFORM.get(sys.platform, list)()


def _linux() -> list[str]:
    try:
        lines = _PROCESS.read_bytes().splitlines()
        mask = next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), None)
    except (OSError, IndexError, ValueError):
        return []
    return [] if mask is None or mask >> _CAP_SYS_ADMIN & 1 else ["CAP_SYS_ADMIN"]


def _illumos() -> list[str]:
    """By getppriv(2) and priv_ismember(3C)."""
    try:
        libc = _illumos_libc()
    except (OSError, AttributeError):
        return []
    held = libc.priv_allocset()
    if not held:
        return []
    try:
        if libc.getppriv(_EFFECTIVE, held) != 0:
            return []
        return [name for name in _NEEDED if not libc.priv_ismember(held, name.encode())]
    finally:
        libc.priv_freeset(held)


@cache
def _illumos_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    # priv_ptype_t and priv_t are names, boolean_t is an enum.
    libc.priv_allocset.argtypes, libc.priv_allocset.restype = [], ctypes.c_void_p
    libc.priv_freeset.argtypes, libc.priv_freeset.restype = [ctypes.c_void_p], None
    libc.getppriv.argtypes, libc.getppriv.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int
    libc.priv_ismember.argtypes, libc.priv_ismember.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int
    return libc


#: By `sys.platform`; illumos calls itself sunos5.
_BY_PLATFORM: Final[dict[str, Callable[[], list[str]]]] = {"linux": _linux, "sunos5": _illumos}
