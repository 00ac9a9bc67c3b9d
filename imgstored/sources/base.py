"""What an image server must answer: the same four questions for every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from imgstored.http.location import Access, Location, Verify

SourceType = Literal["imgapi", "dsapi", "static"]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One configured source. Two specs with equal `url`, `type`, `insecure` and `channel` are the same source."""

    url: str  #: normalised, without a trailing slash
    type: SourceType = "imgapi"
    insecure: bool = False
    channel: str | None = None
    access: Access = Access()
    verify: Verify | None = None  #: None: streaming over TLS and on loopback, first over plain HTTP


@dataclass(frozen=True, slots=True)
class Listed:
    """One image that a source has: its manifest as v2 (as served, for display, where it cannot be upgraded)."""

    manifest: Mapping[str, Any]
    source: str  #: the source's URL


class Source(Protocol):
    """One image server. Raises `ClientError` or `APIError`; every call has a time limit of its own."""

    @property
    def spec(self) -> SourceSpec: ...

    async def ping(self) -> None:
        """Returns if the server answers as one of its kind; raises otherwise."""
        ...

    async def list(self) -> list[Listed]:
        """All images that the server offers, in its order."""
        ...

    async def manifest(self, uuid: str) -> Mapping[str, Any] | None:
        """The manifest as v2, in whatever state the image is; None when the server does not have it."""
        ...

    async def locate(self, uuid: str) -> Location | None:
        """Where the image's first file is; None when the server does not have it."""
        ...
