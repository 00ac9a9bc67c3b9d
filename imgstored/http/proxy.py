"""Chooses the proxy of a request. Pure: the environment is an argument."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from imgstored.errors import ClientError
from imgstored.http.location import Location, Origin, is_host, origin_of, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What curl takes when a proxy's URL has no port.
_DEFAULT_PORT = 1080

_SOCKS = frozenset({"socks5", "socks5h"})


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: CONNECT for https, absolute URLs for http. Or a SOCKS proxy (RFC 1928) for both."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)  #: value of Proxy-Authorization
    socks: bool = False  #: SOCKS 5; the proxy resolves the server's name
    login: tuple[str, str] | None = field(default=None, repr=False)  #: user and password (RFC 1929)

    @property
    def url(self) -> str:
        """The proxy's URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'socks5' if self.socks else 'http'}://{host}:{self.port}"


def proxy_for(location: Location, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for `location`: the source's own, else the environment's, unless no_proxy names the host.

    The environment's names are those that curl knows, in either case, and the lower-case one wins. Raises
    `ClientError` when the setting is not `[http://][user:password@]host[:port]`, or the same with
    `socks5://` or `socks5h://`, which are one and the same here.
    """
    if location.access.proxy:
        return parse_proxy(location.access.proxy)
    origin = origin_of(location.url)
    setting = _variable(environ, f"{origin.scheme}_proxy") or _variable(environ, "all_proxy")
    if not setting or _exempt(origin, _variable(environ, "no_proxy")):
        return None
    return parse_proxy(setting)


def parse_proxy(setting: str) -> Proxy:
    """Reads a proxy's URL. Raises `ClientError`, which names the proxy without its credentials."""
    text = setting if "://" in setting else f"http://{setting}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("http://")
    socks = parts.scheme in _SOCKS
    if (
        not (socks or parts.scheme == "http")
        or not host
        or not is_host(host)
        # The environment's own bytes, which are no text.
        or not _is_text(parts.username, parts.password)
    ):
        raise ClientError(
            f'proxy "{shown(text)}" is not usable',
            # Written as a URL with user and password, it would be taken for one, and hidden.
            hint="a proxy is a URL such as http://proxy.example:3128 or socks5://proxy.example:1080;"
            " credentials stand before the host",
        )
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    if socks:
        if login is not None and not all(0 < len(text.encode()) < 256 for text in login):
            raise ClientError(
                f'proxy "{shown(text)}" is not usable',
                hint="a user and a password for a SOCKS proxy have from 1 to 255 bytes each",
            )
        return Proxy(host, port or _DEFAULT_PORT, socks=True, login=login)
    authorization = None
    if login is not None:
        authorization = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    return Proxy(host, port or _DEFAULT_PORT, authorization)


def _is_text(*words: str | None) -> bool:
    try:
        "".join(word or "" for word in words).encode()
    except UnicodeEncodeError:
        return False
    return True


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _exempt(origin: Origin, no_proxy: str) -> bool:
    return any(_covers(entry.strip().lower(), origin) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, origin: Origin) -> bool:
    """True if an entry of no_proxy (domain or address, with or without port; network; *) covers it."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass  # one of the two is a name
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        if port.lstrip("0") != str(origin.port):
            return False
        entry = host
    domain = entry.strip("[]").removeprefix("*").removeprefix(".")
    return bool(domain) and (origin.host == domain or origin.host.endswith("." + domain))
