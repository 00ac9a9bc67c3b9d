"""The nearness of addresses to this host, which limits where a server may send us. Pure.

A server on the internet must not have the daemon ask what only this host, or its network, can reach: such a
service trusts who can reach it, and everybody would read its answer.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum
from typing import Final

from imgstored.errors import ClientError


class Nearness(IntEnum):
    """The nearness of an address: the greater, the fewer others can reach it."""

    PUBLIC = 0
    PRIVATE = 1
    LINK_LOCAL = 2
    LOOPBACK = 3


#: Prefixes of IPv6 with an IPv4 address within: its first bit, counted from the lowest.
_EMBEDDED: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # RFC 4291, 2.5.5.2
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # RFC 2765, 2.1
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # RFC 6052, 2.1
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),  # RFC 8215
    (ipaddress.IPv6Network("2002::/16"), 80),  # RFC 3056, 2
    (ipaddress.IPv6Network("::/96"), 0),  # RFC 4291, 2.5.5.1
)

#: `0.x.x.x`: this host, on this network (RFC 1122, 3.2.1.3).
_THIS: Final = ipaddress.IPv4Network("0.0.0.0/8")


def nearness(address: str) -> Nearness:
    """The nearness of an IP address, as sockets have it. Any other text counts as the nearest."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return Nearness.LOOPBACK
    if ip.is_loopback or ip.is_unspecified:
        return Nearness.LOOPBACK
    if isinstance(ip, ipaddress.IPv6Address):
        for prefix, shift in _EMBEDDED:
            if ip in prefix:
                return nearness(str(ipaddress.IPv4Address((int(ip) >> shift) & 0xFFFFFFFF)))
        site_local = ip.is_site_local
    else:
        site_local = False
        if ip in _THIS:
            return Nearness.LOOPBACK
    if ip.is_link_local:
        return Nearness.LINK_LOCAL
    if site_local or ip.is_multicast or not ip.is_global:
        return Nearness.PRIVATE
    return Nearness.PUBLIC


def nearness_of_host(host: str) -> Nearness:
    """The nearness of a URL's host, as far as the name says it: other names count as public."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return Nearness.LOOPBACK
    try:
        # `127.1`, `0x7f000001`, `2130706433`, which resolvers take for addresses, too.
        return nearness(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return nearness(host) if ":" in host else Nearness.PUBLIC


class TooNearError(ClientError):
    """A redirect, or the URL of a file, leads nearer to this host than the server is that gave it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"leads to an internal address ({host})",
            hint="if that is right, set `internal_redirects` for the source in imgstored's configuration",
        )
