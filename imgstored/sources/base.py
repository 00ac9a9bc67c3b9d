"""The contract of an image server: the same few questions for every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from msgspec import Struct, field

from imgstored.http.location import Access, Location, Verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.site.trust import Provenance

SourceType = Literal["imgapi", "dsapi", "static", "oci", "docker"]

#: The types of source that there are, as settings name them; `docker` is one container image, by its name.
TYPES: tuple[SourceType, ...] = tuple(kind for kind in get_args(SourceType) if kind != "docker")


class SourceSpec(Struct, frozen=True):
    """One configured source. `imgstored.sources.spec.identity` says which specs are the same source."""

    url: str  #: normalised, without a trailing slash
    type: SourceType = "imgapi"
    insecure: bool = False  #: counts; `access.insecure` does not
    channel: str | None = None  #: wins over the one in the URL
    access: Access = field(default_factory=Access)
    keys: tuple[str, ...] = ()  #: public keys of minisign; if there are any, only what they signed counts
    verify: Verify | None = None  #: None: streaming over TLS and on loopback, first over plain HTTP


class Listed(Struct, frozen=True):
    """One image that a source has: its manifest as v2, or as served where it cannot be upgraded."""

    manifest: Mapping[str, Any]
    source: str  #: the source's URL


class Offer(Struct, frozen=True):
    """The answer of a source about one image."""

    manifest: Mapping[str, Any]  #: v2, not validated, but of the uuid that was asked for
    location: Location | None  #: where its first file is; None where the manifest has no file
    signed: Provenance | None = None  #: who vouches for it, of a source with keys
    others: tuple[Location, ...] = ()  #: further places of the same file


class Source(Protocol):
    """One image server. Raises `ClientError` or `APIError`; every call has a time limit of its own."""

    @property
    def spec(self) -> SourceSpec:
        """The server's spec."""
        ...

    @property
    def incomplete(self) -> str | None:
        """Why the list that was read last may lack images, a sentence; empty where nothing hints at that.

        None before any list was read.
        """
        ...

    async def ping(self) -> None:
        """Returns if the server answers as one of its kind; raises otherwise."""
        ...

    async def list(self) -> list[Listed]:
        """All images that the server offers, in its order, without elements that are not manifests."""
        ...

    async def offer(self, uuid: str) -> Offer | None:
        """The image, in whatever state it is; None when the server does not have it.

        Raises `InvalidManifestError` too, for a manifest that cannot be upgraded to v2.
        """
        ...
