"""Sources' URLs: their normal form, and what can be told from them. Pure: no I/O."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from imgstored.errors import ClientError
from imgstored.http.location import origin_of, shown

if TYPE_CHECKING:
    from imgstored.http.location import Verify
    from imgstored.sources.base import SourceSpec

#: What makes a source the same source: URL, type, insecure, channel.
Identity = tuple[str, str, bool, str | None]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def normalised(url: str) -> str:
    """The normal form of a source's URL, as imgadm has it: with a scheme, without `/` at the end of the path.

    A scheme's own port is dropped, a query kept. Raises `ClientError` for what is no URL of a web server.
    """
    text = url if _SCHEME.match(url) else f"http://{url}"
    origin = origin_of(text)
    parts = urlsplit(text)
    if "#" in text:
        raise ClientError(
            f"{shown(text)}: a source's URL has no fragment", hint="leave out what follows the #"
        )
    return urlunsplit((origin.scheme, origin.authority, parts.path.rstrip("/"), parts.query, ""))


def channel_of(spec: SourceSpec) -> str | None:
    """The channel that the source is asked for: the spec's own, else that of its URL (`?channel=`)."""
    if spec.channel is not None:
        return spec.channel
    return dict(_query(spec.url)).get("channel") or None


def identity(spec: SourceSpec) -> Identity:
    """What makes two specs the same source."""
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
