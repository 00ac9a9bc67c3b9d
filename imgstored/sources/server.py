"""One image server: its URLs, requests to it, and where its files are. All kinds of source share this."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct, field

from imgstored import __version__
from imgstored.errors import APIError, ClientError
from imgstored.http.addresses import Nearness
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import Location, origin_of, shown
from imgstored.manifest import MAX_LIST, MAX_MANIFEST
from imgstored.sources.answers import failure
from imgstored.sources.spec import verify_for, with_query, without_query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgstored.http.documents import Document, Fetch
    from imgstored.sources.base import SourceSpec

#: RFC 9110, 10.1.5.
USER_AGENT = ("User-Agent", f"imgstored/{__version__}")

#: 203: somebody in between has changed the answer, such as a proxy (RFC 9110, 15.3.4).
_OK = frozenset({200, 203})

#: A file's name is longer nowhere; ZFS and ext4 both end here.
_MAX_PATH = 255


class AskLimits(Struct, frozen=True):
    """Bounds on one question to one source. Sizes in bytes, times in seconds."""

    ping: DocumentLimits = field(
        default_factory=lambda: DocumentLimits(max_bytes=MAX_MANIFEST, total_seconds=15.0)
    )
    manifest: DocumentLimits = field(
        default_factory=lambda: DocumentLimits(max_bytes=MAX_MANIFEST, total_seconds=30.0, tries=2)
    )
    listing: DocumentLimits = field(
        default_factory=lambda: DocumentLimits(max_bytes=MAX_LIST, total_seconds=60.0, tries=2)
    )


class Server:
    """Asks one server for documents, and says where its files are."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        fetch: Fetch,
        headers: Sequence[tuple[str, str]] = (),
        channel: str | None = None,
        below: str = "",
    ) -> None:
        """`channel` goes with every request; `below` is the part of the URL that may be there or not."""
        self.spec = spec
        self.incomplete: str | None = None  #: see `Source`
        self._fetch = fetch
        self._headers = (USER_AGENT, ("Accept", "application/json"), *headers)
        self._access = dataclasses.replace(spec.access, insecure=spec.insecure)
        base, parameters = without_query(spec.url)
        self._base = base.removesuffix(below)
        self._parameters = [*parameters, ("channel", channel)] if channel is not None else parameters
        self._near: Nearness | None = None  # of the farthest that answered for it

    def url(self, path: str, parameters: Sequence[tuple[str, str]] = ()) -> str:
        """The URL of something below the server's own; `path` begins with a slash."""
        return with_query(self._base + path, [*self._parameters, *parameters])

    async def get(self, url: str, limits: DocumentLimits) -> bytes | None:
        """A document, or None where the server says that there is none. Raises `ClientError`, `APIError`."""
        document = await self._document(url, limits)
        if document.status == 404:
            return None
        if document.status not in _OK:
            raise failure(url, document)
        return document.body

    async def demand(self, url: str, limits: DocumentLimits) -> bytes:
        """A document that must be there. Raises `ClientError`, `APIError`."""
        document = await self._document(url, limits)
        if document.status not in _OK:
            raise failure(url, document)
        return document.body

    async def _document(self, url: str, limits: DocumentLimits) -> Document:
        document = await self._fetch(self.location(url), limits=limits, headers=self._headers)
        # The farthest: a name may first lead to the server, and then to an address that it wants us to ask.
        self._near = document.near if self._near is None else min(self._near, document.near)
        return document

    def location(self, url: str) -> Location:
        """The location of `url`, which is the server's own or named by it.

        The headers of the source's settings, which may hold credentials, go to the source's own origin only.
        Elsewhere it may not send us nearer to this host than it is itself.
        """
        verify = verify_for(self.spec, url)
        if origin_of(url) == origin_of(self.spec.url):
            return Location(url, self.spec.url, self._access, verify)
        near = Nearness.PUBLIC if self._near is None else self._near
        limit = None if self._access.internal_redirects else near
        return Location(url, self.spec.url, self._access.elsewhere(), verify, limit)

    def file_location(self, manifest: Mapping[str, Any], folder: str) -> Location | None:
        """The location of a manifest's (as served) first file: its `url`, else at its `path` in `folder`.

        `folder` is a path below the server's URL. A manifest that names neither, as none of v2 does, has its
        file at `folder`/file. None where there is no file. Raises `APIError` for a name that leads elsewhere.
        """
        files = manifest.get("files")
        if not isinstance(files, list) or not files or not isinstance(files[0], dict):
            return None
        url, path = files[0].get("url"), files[0].get("path")
        if url is not None:
            return self.location(self._checked(url))
        return self.location(self.url(f"{folder}/{'file' if path is None else self._component(path)}"))

    def _checked(self, url: object) -> str:
        """A file's URL that a manifest has. Raises `APIError`."""
        if not isinstance(url, str):
            raise self._refused("a file's `url` is not a text")
        try:
            origin = origin_of(url)
        except ClientError as error:
            raise self._refused(f"a file's `url` is not usable: {error.message}") from error
        if origin_of(self.spec.url).tls and not origin.tls:
            raise self._refused(f"a file's `url` leads from https to http ({shown(url)})")
        return url.partition("#")[0]

    def _component(self, path: object) -> str:
        """A file's `path` that a manifest has, as one component of a URL. Raises `APIError`."""
        if not isinstance(path, str) or not 0 < len(path) <= _MAX_PATH or not path.isprintable():
            raise self._refused("a file's `path` is not the name of a file")
        if path in (".", "..") or "/" in path or "\\" in path:
            raise self._refused(f'a file\'s `path` leads elsewhere ("{path}")')
        return quote(path, safe="")

    def _refused(self, why: str) -> APIError:
        return APIError(
            f"{shown(self.spec.url)}: {why}", hint="the manifest is unsafe; tell the operator of the server"
        )
