"""Where bytes are, and what a request for them may carry. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

#: When the pool may see an image's bytes: while they are downloaded, or only after the checksum held.
Verify = Literal["streaming", "first"]


@dataclass(frozen=True, slots=True)
class Access:
    """How one server is to be spoken to. Secrets are kept out of `repr`, and so out of logs."""

    ca_file: str | None = None  #: PEM file of the authorities to trust instead of the system's
    insecure: bool = False  #: do not verify the server's certificate
    proxy: str | None = None  #: http://[user:password@]host:port
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  #: sent to the server's own origin only


@dataclass(frozen=True, slots=True)
class Location:
    """One place that has an image's file."""

    url: str
    source: str  #: the URL of the source that named it, for people
    access: Access = Access()
    verify: Verify = "streaming"


def redirected(location: Location, target: str) -> Location:
    """Placeholder for the redirect rule; see the http room's tests."""
    return replace(location, url=target)
