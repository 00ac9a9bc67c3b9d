"""From a source's type to the class that speaks to it, and what a search over all sources finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgstored.http.documents import fetch_document
from imgstored.sources.dsapi import DsapiSource
from imgstored.sources.imgapi import ImgapiSource
from imgstored.sources.server import AskLimits
from imgstored.sources.static import StaticSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.http.location import Location
    from imgstored.manifest import Manifest
    from imgstored.sources.base import Source, SourceSpec, SourceType
    from imgstored.sources.server import Fetch

_KINDS: dict[SourceType, Callable[..., Source]] = {
    "imgapi": ImgapiSource,
    "dsapi": DsapiSource,
    "static": StaticSource,
}

#: The types of source that there are, as settings name them.
TYPES: tuple[SourceType, ...] = tuple(_KINDS)


@dataclass(frozen=True, slots=True)
class Found:
    """An image that at least one source has."""

    manifest: Manifest
    source: SourceSpec  #: the one whose manifest it is
    locations: tuple[Location, ...]  #: every source that has this very file, first choice first
    import_id: str = ""  #: that the search had, for the import that it is for


def open_source(
    spec: SourceSpec, *, fetch: Fetch = fetch_document, limits: AskLimits | None = None
) -> Source:
    """The source that `spec` describes; its URL must be in normal form. Nothing is asked yet."""
    return _KINDS[spec.type](spec, fetch=fetch, limits=limits or AskLimits())
