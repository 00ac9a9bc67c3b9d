"""Image servers that speak DSAPI, IMGAPI's predecessor: manifests of v1, which say where their files are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored import lanes
from imgstored.manifest import check_uuid, upgrade
from imgstored.sources.answers import read_page, the_manifest
from imgstored.sources.base import Listed, Offer
from imgstored.sources.server import AskLimits, Server

if TYPE_CHECKING:
    from imgstored.http.documents import Fetch
    from imgstored.sources.base import SourceSpec

_DATASETS = "/datasets"


class DsapiSource:
    """`/ping`, `/datasets`, `/datasets/UUID`. The source's URL may end in `/datasets`, as imgadm wants it."""

    def __init__(self, spec: SourceSpec, *, fetch: Fetch, limits: AskLimits) -> None:
        self.spec = spec
        self._server = Server(spec, fetch=fetch, below=_DATASETS)
        self._limits = limits

    @property
    def incomplete(self) -> str | None:
        """As the contract says."""
        return self._server.incomplete

    async def ping(self) -> None:
        """Returns if the server answers at all: DSAPI says nothing about itself."""
        await self._server.demand(self._server.url("/ping"), self._limits.ping)

    async def list(self) -> list[Listed]:
        """All images."""
        url = self._server.url(_DATASETS)
        body = await self._server.demand(url, self._limits.listing)
        # In a thread: a large list takes a while to read.
        page = await lanes.in_thread(read_page, url, body, self.spec.url)
        self._server.incomplete = page.left_out.words(self.spec.url)
        return page.images

    async def offer(self, uuid: str) -> Offer | None:
        """The image, with its file at the `url` or the `path` that the manifest gives."""
        url = self._server.url(f"{_DATASETS}/{check_uuid(uuid)}")
        body = await self._server.get(url, self._limits.manifest)
        if body is None:
            return None
        served = the_manifest(url, body, uuid)
        return Offer(upgrade(served), self._server.file_location(served, f"{_DATASETS}/{uuid}"))
