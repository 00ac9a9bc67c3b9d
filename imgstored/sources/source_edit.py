"""A list of image sources that somebody edited: what was changed, and whether it may be. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgstored.errors import ConfigError, UsageError
from imgstored.http.location import shown
from imgstored.sources.base import SourceSpec
from imgstored.sources.imgadm_conf import check_type
from imgstored.sources.spec import channel_of, identity, normalised

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgstored.sources.spec import Identity


@dataclass(frozen=True, slots=True)
class Changes:
    """What was done to the list."""

    reordered: bool
    added: list[SourceSpec]
    deleted: list[SourceSpec]


def changes(now: Sequence[SourceSpec], wanted: Sequence[SourceSpec]) -> Changes:
    """What makes one list the other; in neither is a source twice."""
    had, has = [*map(identity, now)], [*map(identity, wanted)]
    return Changes(
        reordered=[each for each in had if each in has] != [each for each in has if each in had],
        added=[spec for spec in wanted if identity(spec) not in had],
        deleted=[spec for spec in now if identity(spec) not in has],
    )


def others(wanted: Iterable[SourceSpec], configured: Iterable[SourceSpec]) -> list[SourceSpec]:
    """The wanted ones that are not configured. Raises `ConfigError` where a configured one is missing."""
    left = {identity(spec): spec for spec in wanted}
    for spec in configured:
        if left.pop(identity(spec), None) is None:
            raise set_elsewhere(spec.url)
    return [*left.values()]


def each_once(specs: Iterable[SourceSpec]) -> list[SourceSpec]:
    """The specs without those that name a source a second time."""
    once: dict[Identity, SourceSpec] = {}
    for spec in specs:
        once.setdefault(identity(spec), spec)
    return [*once.values()]


def spec_of(wire: Mapping[str, Any]) -> SourceSpec:
    """The source that a client means. Raises `UsageError`, `ConfigError`, and `ClientError` for its URL."""
    url, kind, channel = wire.get("url"), wire.get("type") or "imgapi", wire.get("channel") or None
    if not isinstance(url, str) or not isinstance(kind, str) or not isinstance(channel, str | None):
        raise UsageError("an image source is {url, type, insecure, channel}; only its url is needed")
    spec = SourceSpec(normalised(url), check_type(kind, url), wire.get("insecure") is True)
    return spec if channel == channel_of(spec) else replace(spec, channel=channel)


def set_elsewhere(url: str) -> ConfigError:
    """Why a source cannot be deleted."""
    return ConfigError(
        f'image source "{shown(url)}" is set in imgstored\'s configuration file',
        hint="remove it there, and send imgstored a SIGHUP",
    )
