"""Static image sites: a folder behind any web server, with a list of manifests as its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from imgstored import lanes
from imgstored.errors import APIError, ClientError, ImgstoreError
from imgstored.manifest import check_uuid, upgrade
from imgstored.sources.answers import LeftOut, ManifestList, damaged_manifest, displayed, read_list
from imgstored.sources.base import Listed, Offer
from imgstored.sources.server import AskLimits, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.http.documents import Fetch
    from imgstored.sources.base import SourceSpec

#: For so long a list that was read answers further questions (seconds): an ancestry is many of them.
KEPT_SECONDS = 10.0

#: Where the list may be. A web server may be set up not to have an index, or to make one of its own.
_PLACES = ("/", "/index.html")

_NOTHING = ManifestList({}, LeftOut(), 0, None)


class StaticSource:
    """`URL/` or `URL/index.html` is a JSON array of manifests of any version, `URL/UUID/…` are the files."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        fetch: Fetch,
        limits: AskLimits,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.spec = spec
        self._server = Server(spec, fetch=fetch)
        self._limits = limits
        self._clock = clock
        self._asking = trio.Lock()
        self._answered = float("-inf")  # when the last answer came
        self._answer: ManifestList | ImgstoreError = _NOTHING

    @property
    def incomplete(self) -> str | None:
        """As the contract says."""
        return self._server.incomplete

    async def ping(self) -> None:
        """Returns if there is a list."""
        await self._manifests()

    async def list(self) -> list[Listed]:
        """All images, as the list has them at this moment."""
        manifests = (await self._manifests(kept=False)).by_uuid
        return await lanes.in_thread(displayed, manifests.values(), self.spec.url)

    async def offer(self, uuid: str) -> Offer | None:
        """The image, with its file at the `url` or the `path` that the manifest gives, or at `UUID/file`."""
        check_uuid(uuid)
        manifests = await self._manifests()
        served = manifests.by_uuid.get(uuid)
        if served is None and uuid in manifests.left_out.damaged:
            raise damaged_manifest(self.spec.url, manifests.left_out.damaged[uuid])
        if served is None:
            return None
        return Offer(upgrade(served), self._server.file_location(served, f"/{uuid}"))

    async def _manifests(self, *, kept: bool = True) -> ManifestList:
        """The list, by uuid, as served. Concurrent callers share one fetch, including its error."""
        came = self._clock()
        async with self._asking:
            usable = came - KEPT_SECONDS if kept and not isinstance(self._answer, ImgstoreError) else came
            if self._answered <= usable:
                try:
                    self._answer = await self._fetch_list()
                except (ClientError, APIError) as error:
                    self._answer = _anew(error)
                self._answered = self._clock()
        if isinstance(self._answer, ImgstoreError):
            raise _anew(self._answer)
        return self._answer

    async def _fetch_list(self) -> ManifestList:
        first: APIError | None = None
        for place in _PLACES:
            url = self._server.url(place)
            try:
                body = await self._server.demand(url, self._limits.listing)
                manifests = await lanes.in_thread(read_list, url, body)
            except APIError as error:
                first = first or error
            else:
                self._server.incomplete = manifests.left_out.words(self.spec.url)
                return manifests
        assert first is not None
        raise first


def _anew(error: ImgstoreError) -> ImgstoreError:
    """A copy of the error without its causes and frames, which hold the whole list."""
    return type(error)(error.message, hint=error.hint, data=error.data)
