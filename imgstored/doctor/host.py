"""Checks of the configuration, privileges, Python, open files, and optional packages. All block briefly."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from imgstored.config import loading, preflight, specs
from imgstored.doctor.check import Finding
from imgstored.errors import ConfigError, ImgstoreError
from imgstored.eventloop import trial
from imgstored.host import descriptors as files

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.doctor.check import Status, Subject

#: How to give a service the privileges that ZFS needs.
_GRANT: Final = (
    "add them to `privileges` of the SMF manifest; in a zone, to the zone's `limit_priv`"
    if sys.platform.startswith("sunos")
    else "give the container or the service CAP_SYS_ADMIN, and the device /dev/zfs"
)

#: Where programs are looked for, never in PATH.
_FOLDERS: Final = (
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/opt/local/bin",
    "/opt/tools/bin",
)


class _Extra(NamedTuple):
    """An optional dependency. `without` is the effect of its absence."""

    name: str
    is_program: bool
    without: str
    install: str
    missed: bool = False  #: without it something is impossible, or takes several times as long


_FAST: Final = "pip install 'imgstore[fast]'"
_SERVE: Final = "pip install 'imgstore[serve]'"
_BLAKE3: Final = "pip install blake3, which needs Rust where there is no wheel of it"
_MSGPACK: Final = "pip install --force-reinstall --no-cache-dir msgpack, where there is a C compiler"

_EXTRAS: Final = (
    _Extra("zstandard", False, "images with zstd compression cannot be installed", _FAST, missed=True),
    _Extra(
        "blake3", False, "downloads are hashed by BLAKE2b, which takes 8 times as long", _BLAKE3, missed=True
    ),
    _Extra("isal", False, "gzip takes twice as long to decompress", _FAST, missed=True),
    _Extra(
        "numpy",
        False,
        "an import into an embedded pool takes 6 times as long, and `verify` 40 times, where there is no"
        " libzfs",
        _FAST,
        missed=True,
    ),
    _Extra(
        "msgpack._cmsgpack",
        False,
        "long lists take 16 times as long to send, and 10 times to read",
        _MSGPACK,
        missed=True,
    ),
    _Extra("tqdm", False, "imgctl shows no progress bar", "pip install tqdm"),
    _Extra("werkzeug", False, "there can be no `metrics` and no `serve`", _SERVE),
    _Extra("prometheus_client", False, "there can be no `metrics`", _SERVE),
    _Extra(
        "lbzip2",
        True,
        "bzip2 takes 2.6 times as long on two processors",
        "install the package lbzip2",
        missed=True,
    ),
    _Extra("qemu-img", True, "`imgctl create --raw` takes raw disks only", "install the package qemu-utils"),
)


def configuration(subject: Subject) -> list[Finding]:
    """Checks the files as they are now; a running daemon may not have read them yet."""
    names = ", ".join(map(str, subject.files)) or "no file: every key has its default"
    try:
        specs.check(loading.load(*subject.files))
    except ImgstoreError as error:
        faults = error.all_faults() if isinstance(error, ConfigError) else [error]
        return [Finding("configuration", "fail", fault.message, fault.hint) for fault in faults]
    return [Finding("configuration", "ok", names)]


def start(subject: Subject) -> list[Finding]:
    """Checks that the host has all that the configuration needs; the daemon would not start otherwise."""
    faults = preflight.faults(subject.settings)
    return [Finding("start", "fail", fault.message, fault.hint) for fault in faults] or [
        Finding("start", "ok", "all that the configuration needs is installed")
    ]


def privileges(subject: Subject) -> list[Finding]:
    """Checks for root and its privileges, which root in a container may lack."""
    uid, has_zfs = os.geteuid(), any(table.type == "zfs" for table in subject.settings.pools)
    if uid != 0:
        seen = f"runs as uid {uid}"
        if has_zfs:
            hint = "run it as root: it queries a pool by channel programs, which `zfs allow` cannot delegate"
            return [Finding("privileges", "fail", f"{seen}, and a pool is ZFS", hint)]
        return [Finding("privileges", "ok", f"{seen}; embedded pools need no privileges")]
    missing = ", ".join(lacking())
    if missing and has_zfs:
        return [Finding("privileges", "fail", f"root, but without {missing}: ZFS refuses it", _GRANT)]
    if missing and sys.platform == "linux":
        hint = f"the view can be plain files (`view.mode`); to mount it, give the container {missing}"
        return [Finding("privileges", "warn", f"root, but without {missing}: nothing can be mounted", hint)]
    return [Finding("privileges", "ok", "root")]


def python(_: Subject) -> list[Finding]:
    """Checks that trio runs in this Python, and that a thread can wake it. Runs in a thread of its own."""
    try:
        waits_by = trial.waits_by()
    except ConfigError as error:
        return [Finding("python", "fail", error.message, error.hint)]
    seen = f"Python {platform.python_version()}, {sys.executable}; trio waits by {waits_by}"
    return [Finding("python", "ok", seen)]


def descriptors(subject: Subject) -> list[Finding]:
    """Checks that this process may open as many files as the configured limits may need."""
    hard, needed = files.hard_limit(), specs.descriptors(subject.settings)
    if hard < needed:
        seen = f"{hard:,.0f} files may be open, but {needed:,} may be needed at the same time"
        return [Finding("descriptors", "warn", seen, files.HINT)]
    allowed = "any number of" if hard == float("inf") else f"{hard:,.0f}"
    return [Finding("descriptors", "ok", f"{allowed} files may be open; at most {needed:,} are needed")]


def extras(_: Subject) -> list[Finding]:
    """Reports the optional dependencies and their uses."""
    absent = [extra for extra in _EXTRAS if not _is_there(extra)]
    found = [
        Finding("extras", "ok", f"{extra.name} is installed") for extra in _EXTRAS if extra not in absent
    ]
    for extra in absent:
        status: Status = "warn" if extra.missed else "ok"
        found.append(
            Finding("extras", status, f"{extra.name} is not installed: {extra.without}", extra.install)
        )
    return found


def _is_there(extra: _Extra) -> bool:
    if extra.is_program:
        return program(extra.name) is not None
    return importlib.util.find_spec(extra.name) is not None


def program(name: str) -> str | None:
    """The path of a program of the system, or None."""
    paths = (f"{folder}/{name}" for folder in _FOLDERS)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


# -- what ZFS needs besides root: capabilities on Linux, privileges on illumos -------------------------------

#: proc(5). illumos has a file of that name, too, a binary one (proc(5) there, `pstatus_t`).
_PROCESS: Final = Path("/proc/self/status")
#: capabilities(7): mounts, and all that ZFS asks for.
_CAP_SYS_ADMIN: Final = 21

#: privileges(7): ZFS channel programs, datasets, and the receive.
_NEEDED: Final = ("sys_config", "sys_mount", "sys_fs_import")
#: priv_set_t of getppriv(2): `PRIV_EFFECTIVE`.
_EFFECTIVE: Final = b"Effective"


def lacking() -> list[str]:
    """The privileges that ZFS needs and this process lacks; empty also if the system does not say."""
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
