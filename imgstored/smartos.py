"""The platform image of a SmartOS host. Other systems have no platform image."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from imgstored.errors import ConfigError
from imgstored.manifest.platform import Platform

#: Where sysinfo(8) has its "SDC Version" from. imgadm takes a host without it for 6.5.
_VERSION_FILE: Final = Path("/.smartdc_version")
_OLD_VERSION: Final = "6.5"

#: A version has a few characters.
_LIMIT: Final = 100

_TIMESTAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_VERSION: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


def running(
    system: str | None = None, build: str | None = None, version_file: Path = _VERSION_FILE
) -> Platform | None:
    """The platform image that this host runs, as sysinfo(8) tells it; None where there is none.

    `system` and `build` are what `uname -s` and `uname -v` say: SunOS, and as joyent_20260101T000000Z.
    """
    host = os.uname()
    timestamp = (build or host.version).rpartition("_")[2]
    if (system or host.sysname) != "SunOS" or not _TIMESTAMP.fullmatch(timestamp):
        return None
    try:
        with version_file.open(encoding="ascii", errors="replace") as file:
            version = file.read(_LIMIT).strip()
    except OSError:
        version = ""
    return Platform(version if _VERSION.fullmatch(version) else _OLD_VERSION, timestamp)


def parse_platform(text: str) -> Platform:
    """A platform image from VERSION/TIMESTAMP. Raises `ConfigError`."""
    version, _, timestamp = text.partition("/")
    if not _VERSION.fullmatch(version) or not _TIMESTAMP.fullmatch(timestamp):
        raise ConfigError(
            f'platform: "{text[:_LIMIT]}" is not a platform image',
            hint='one is as in "7.0/20260101T000000Z"; "any" is for no comparison',
        )
    return Platform(version, timestamp)
