"""The spec of a source: its URL's normal form, its identity, its wire form, and edits of a list. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import ClientError, ConfigError, UsageError
from imgstored.http.location import origin_of, public, shown
from imgstored.registry.artifact import REPOSITORY
from imgstored.registry.reference import CONTAINER, parse_reference, repository_of, web_url
from imgstored.sources.base import TYPES, SourceSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from imgproto.documents import SourceDocument

    from imgstored.http.location import Verify
    from imgstored.sources.base import SourceType

#: What makes a source the same source: URL, type, insecure, channel.
Identity = tuple[str, str, bool, str | None]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def normalised(url: str) -> str:
    """The normal form of a source's URL, as imgadm has it: with a scheme, without `/` at the end of the path.

    A scheme's own port is dropped, a query kept. Raises `ClientError` for what is no URL of a web server.
    """
    if url.startswith(CONTAINER):
        return f"{CONTAINER}{parse_reference(url.removeprefix(CONTAINER))}"
    text = web_url(url) if _SCHEME.match(url) else f"http://{url}"
    origin = origin_of(text)
    parts = urlsplit(text)
    if "#" in text:
        raise ClientError(
            f"{shown(text)}: a source's URL has no fragment", hint="leave out what follows the #"
        )
    return urlunsplit((origin.scheme, origin.authority, parts.path.rstrip("/"), parts.query, ""))


def type_for(url: str) -> SourceType:
    """The type of a source of which only the URL is known."""
    if url.startswith(CONTAINER):
        return "docker"
    return "oci" if url.startswith("oci://") else "imgapi"


def checked(spec: SourceSpec) -> SourceSpec:
    """The spec. Raises `ClientError` for one of a type that its URL cannot be of."""
    if spec.type == "oci":
        repository_of(spec.url, REPOSITORY)
    return spec


def channel_of(spec: SourceSpec) -> str | None:
    """The channel that the source is asked for: the spec's own, else that of its URL (`?channel=`)."""
    if spec.channel is not None:
        return spec.channel
    return dict(_query(spec.url)).get("channel") or None


def identity(spec: SourceSpec) -> Identity:
    """The identity of a source: two specs with the same one are one source."""
    return (spec.url, spec.type, spec.insecure, channel_of(spec))


def without_query(url: str) -> tuple[str, list[tuple[str, str]]]:
    """The URL without its query, and the query without the channel: it goes with every request."""
    base = urlunsplit(urlsplit(url)._replace(query=""))
    return base, [(name, value) for name, value in _query(url) if name != "channel"]


def with_query(url: str, parameters: list[tuple[str, str]]) -> str:
    """The URL, which has no query, with these parameters."""
    return f"{url}?{urlencode(parameters)}" if parameters else url


def verify_for(spec: SourceSpec, url: str) -> Verify:
    """When bytes from `url`, which the source named, may reach a pool, unless the spec says so itself.

    While they come, if source and bytes are over TLS that was verified, or on this machine: nobody on the way
    can have made them up then.
    """
    if spec.verify is not None:
        return spec.verify
    if spec.keys:
        return "first"  # it is the keys that are trusted, and not the server
    return "streaming" if all(_authentic(each, spec.insecure) for each in (spec.url, url)) else "first"


def _authentic(url: str, insecure: bool) -> bool:
    origin = origin_of(url)
    if origin.host == "localhost":
        return True
    try:
        if ipaddress.ip_address(origin.host).is_loopback:
            return True
    except ValueError:
        pass  # a name
    return origin.tls and not insecure


def _query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


# -- what clients name ---------------------------------------------------------------------------------------


def as_wire(spec: SourceSpec) -> SourceDocument:
    """The protocol's *source*."""
    return {
        "url": spec.url,
        "type": spec.type,
        "insecure": spec.insecure,
        "channel": channel_of(spec),
    }


def check_type(kind: str, url: str) -> SourceType:
    """`kind` as a source type. Raises `ConfigError` if it is none."""
    for known in TYPES:
        if kind == known:
            return known
    names = ", ".join(f'"{name}"' for name in TYPES)
    raise ConfigError(f'type "{kind}" for source url "{public(url)}" is invalid: must be one of {names}')


def spec_of(wire: Mapping[str, Any]) -> SourceSpec:
    """The source that a client means. Raises `UsageError`, `ConfigError`, and `ClientError` for its URL."""
    url, channel = wire.get("url"), wire.get("channel") or None
    kind = wire.get("type") or type_for(str(url))
    if not isinstance(url, str) or not isinstance(kind, str) or not isinstance(channel, str | None):
        raise UsageError("an image source is {url, type, insecure, channel}; only its url is needed")
    spec = checked(SourceSpec(normalised(url), check_type(kind, url), wire.get("insecure") is True))
    return spec if channel == channel_of(spec) else replace(spec, channel=channel)


# -- a list that somebody edited -----------------------------------------------------------------------------


class Changes(Struct, frozen=True):
    """The changes that turn one list into another."""

    reordered: bool
    added: list[SourceSpec]
    deleted: list[SourceSpec]


def changes(now: Sequence[SourceSpec], wanted: Sequence[SourceSpec]) -> Changes:
    """The changes that make one list the other; in neither is a source twice."""
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


def given_back(
    wanted: Sequence[SourceSpec], known: Iterable[SourceSpec], told: Callable[[str], str]
) -> list[SourceSpec]:
    """The wanted ones; those that are as somebody was told of a known one are that one."""
    hidden: dict[Identity, list[SourceSpec]] = {}
    for spec in known:
        hidden.setdefault(identity(replace(spec, url=told(spec.url))), []).append(spec)
    found = []
    for spec in wanted:
        same = hidden.get(identity(spec))
        found.append(same.pop(0) if same else spec)
    return found


def meant(url: str, known: Iterable[SourceSpec]) -> str:
    """The URL of the source that is named by all of its URL, or without what may be secret in it.

    Raises `UsageError` where that may be several.
    """
    urls = {spec.url for spec in known}
    if url in urls:
        return url
    hidden = {each for each in urls if public(each) == url}
    if len(hidden) > 1:
        raise UsageError(
            f'{len(hidden)} image sources are shown as "{url}"', hint="root can give the whole URL of one"
        )
    return hidden.pop() if hidden else url


def set_elsewhere(url: str) -> ConfigError:
    """Why a source cannot be deleted."""
    return ConfigError(
        f'image source "{shown(url)}" is set in imgstored\'s configuration file',
        hint="remove it there, and send imgstored a SIGHUP",
    )
