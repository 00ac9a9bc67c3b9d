"""Checks of privileges, the configuration, and optional packages. All of them block briefly."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from imgstored import config, specs
from imgstored.doctor.finding import Finding
from imgstored.doctor.privileges import lacking
from imgstored.errors import ImgstoreError

if TYPE_CHECKING:
    from imgstored.doctor.finding import Status
    from imgstored.doctor.subject import Subject

#: What gives a service what ZFS asks for.
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
    needed: bool = False  #: something cannot be done without it


_FAST: Final = "pip install 'imgstore[fast]'"
_SERVE: Final = "pip install 'imgstore[serve]'"
_BLAKE3: Final = "pip install blake3, which needs Rust where there is no wheel of it"
_MSGPACK: Final = "pip install --force-reinstall --no-cache-dir msgpack, where there is a C compiler"

_EXTRAS: Final = (
    _Extra("zstandard", False, "images with zstd compression cannot be installed", _FAST, needed=True),
    _Extra("blake3", False, "what was downloaded is hashed by BLAKE2b, more slowly", _BLAKE3),
    _Extra("isal", False, "gzip is decompressed at half the speed", _FAST),
    _Extra("numpy", False, "checksums of streams take longer", _FAST),
    _Extra("msgpack._cmsgpack", False, "long lists take longer to send", _MSGPACK),
    _Extra("tqdm", False, "imgctl shows no progress bar", "pip install tqdm"),
    _Extra("werkzeug", False, "there can be no `metrics` and no `serve`", _SERVE),
    _Extra("prometheus_client", False, "there can be no `metrics`", _SERVE),
    _Extra("lbzip2", True, "bzip2 is decompressed by Python, more slowly", "install the package lbzip2"),
    _Extra("qemu-img", True, "`imgctl create --raw` takes raw disks only", "install the package qemu-utils"),
)


def configuration(subject: Subject) -> list[Finding]:
    """The files as they are now, which a running daemon may not have read yet."""
    names = ", ".join(map(str, subject.files)) or "no file: every key has its default"
    try:
        specs.check(config.load(*subject.files))
    except ImgstoreError as error:
        return [Finding("configuration", "fail", error.message, error.hint)]
    return [Finding("configuration", "ok", names)]


def privileges(subject: Subject) -> list[Finding]:
    """Root, with what root can do: a container's may not."""
    uid, has_zfs = os.geteuid(), any(table.type == "zfs" for table in subject.settings.pools)
    if uid != 0:
        seen = f"runs as uid {uid}"
        if has_zfs:
            hint = "run it as root: `zfs allow` cannot delegate channel programs, by which it looks at a pool"
            return [Finding("privileges", "fail", f"{seen}, and a pool is ZFS", hint)]
        return [Finding("privileges", "ok", f"{seen}; the pools are embedded ones, which need no privileges")]
    missing = ", ".join(lacking())
    if missing and has_zfs:
        return [Finding("privileges", "fail", f"root, but without {missing}: ZFS refuses it", _GRANT)]
    if missing and sys.platform == "linux":
        hint = f"the view can be plain files (`view.mode`); to mount it, give the container {missing}"
        return [Finding("privileges", "warn", f"root, but without {missing}: nothing can be mounted", hint)]
    return [Finding("privileges", "ok", "root")]


def extras(_: Subject) -> list[Finding]:
    """Reports the optional dependencies and their uses."""
    absent = [extra for extra in _EXTRAS if not _is_there(extra)]
    found = [
        Finding("extras", "ok", f"{extra.name} is installed") for extra in _EXTRAS if extra not in absent
    ]
    for extra in absent:
        status: Status = "warn" if extra.needed else "ok"
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
