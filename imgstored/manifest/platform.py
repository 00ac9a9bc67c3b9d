"""The platforms that an image can run on, by imgadm's rule."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import MaxPlatformError, MinPlatformError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.manifest.model import Manifest

#: Characters of a requirement that a message shows.
_SHOWN: Final = 300

_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}")


class Platform(Struct, frozen=True):
    """The platform image that a SmartOS host runs, as `sysinfo` says."""

    version: str  #: "SDC Version", 7.0 on SmartOS today; "6.5" where sysinfo has none
    timestamp: str  #: "Live Image": YYYYMMDDTHHMMSSZ


def check_platform(manifest: Manifest, platform: Platform | None) -> None:
    """Raises `MinPlatformError` or `MaxPlatformError` if the image must not run here; None is not known.

    A requirement maps versions to the first, or last, platform image that will do. Where the host's version
    is not among them, it must not be below the lowest of `min_platform`, nor above the highest of
    `max_platform`. What is no such map, or no version or time stamp in it, requires nothing.
    """
    wants = manifest.document.get("requirements")
    if platform is None or not isinstance(wants, dict):
        return
    version = _ordered(platform.version)
    if least := _bounds(wants.get("min_platform")):
        bound = least.get(platform.version)
        if platform.timestamp < bound if bound else version < min(map(_ordered, least)):
            raise MinPlatformError(
                _unsatisfied(platform, "min_platform", least), hint="the image needs a newer platform image"
            )
    if most := _bounds(wants.get("max_platform")):
        bound = most.get(platform.version)
        if platform.timestamp > bound if bound else version > max(map(_ordered, most)):
            raise MaxPlatformError(
                _unsatisfied(platform, "max_platform", most),
                hint="the image does not run on this platform image; look for a newer image",
            )


def _bounds(requirement: object) -> dict[str, str]:
    """By version. imgadm compares what is of another type, too, and finds that it asks for nothing."""
    if not isinstance(requirement, dict):
        return {}
    return {
        version: bound
        for version, bound in requirement.items()
        if _VERSION.fullmatch(version) and isinstance(bound, str)
    }


def _unsatisfied(platform: Platform, requirement: str, value: Mapping[str, str]) -> str:
    shown = json.dumps(value, separators=(",", ":"))[:_SHOWN]
    return (
        f"current platform version, {platform.version}/{platform.timestamp}, "
        f"does not satisfy requirements.{requirement}={shown}"
    )


def _ordered(version: str) -> tuple[int, ...]:
    """7.0 before 10.0."""
    return tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit())
