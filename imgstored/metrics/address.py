"""The address of the metrics: `127.0.0.1:9275`, `[::1]:9275`, or `unix:/PATH`. Pure."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from imgstored.errors import ConfigError

_TCP: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")

_HINT: Final = 'write "127.0.0.1:9275", or "unix:/run/imgstored/metrics.sock"'


class TcpAddress(Struct, frozen=True):
    """A port of this host."""

    host: str  #: an IP address
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """A name in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_listen(text: str, *, remote: bool) -> TcpAddress | UnixAddress:
    """The address. Raises `ConfigError` for what is none, or for others' hosts to reach unless `remote`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ConfigError(f"metrics.listen: not an absolute path: {path!r}", hint=_HINT)
        return UnixAddress(Path(path))
    match = _TCP.fullmatch(text)
    try:
        address = ipaddress.ip_address(match[1] or match[2]) if match else None
    except ValueError:
        address = None
    if match is None or address is None or not 0 < int(match[3]) < 1 << 16:
        raise ConfigError(f"metrics.listen: not an IP address and port: {text!r}", hint=_HINT)
    if not address.is_loopback and not remote:
        raise ConfigError(
            f"metrics.listen: other hosts can reach {address}",
            hint="take a loopback address; or say `remote = true`, if who reaches it may read all of it",
        )
    return TcpAddress(str(address), int(match[3]))
