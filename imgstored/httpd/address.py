"""The address of an HTTP server: `127.0.0.1:9275`, `[::1]:9275`, or `unix:/PATH`."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import Final

from msgspec import Struct

from imgstored.errors import ConfigError

_TCP: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")

#: Connections that wait in the kernel.
_BACKLOG: Final = 512


class TcpAddress(Struct, frozen=True):
    """A port of this host."""

    host: str  #: an IP address
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only this host can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """A name in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_listen(text: str, *, key: str, example: str) -> TcpAddress | UnixAddress:
    """The address in the configuration's `key`. Raises `ConfigError` for what is none."""
    hint = f'write "{example}", or "unix:/run/imgstored/NAME.sock"'
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ConfigError(f"{key}: not an absolute path: {path!r}", hint=hint)
        return UnixAddress(Path(path))
    match = _TCP.fullmatch(text)
    try:
        address = ipaddress.ip_address(match[1] or match[2]) if match else None
    except ValueError:
        address = None
    if match is None or address is None or not 0 < int(match[3]) < 1 << 16:
        raise ConfigError(f"{key}: not an IP address and port: {text!r}", hint=hint)
    return TcpAddress(str(address), int(match[3]))


def counted_as(client: str) -> str:
    """Whom an IP address counts as for limits: of IPv6 its /64, all of which one host may have."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def listening(address: TcpAddress, *, key: str) -> socket.socket:
    """A socket that listens there. Raises `ConfigError` where none can."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot listen at {address}: {error.strerror or error}",
            hint="another program may listen there, or the host has no such address; choose another one",
        ) from error
