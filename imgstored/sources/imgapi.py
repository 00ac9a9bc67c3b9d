"""Image servers that speak IMGAPI (https://github.com/TritonDataCenter/sdc-imgapi/blob/master/docs/index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import lanes
from imgstored.errors import APIError, ClientError
from imgstored.http.location import shown
from imgstored.manifest import MAX_LIST, check_uuid, upgrade
from imgstored.sources.answers import LeftOut, one_object, read_page, the_manifest
from imgstored.sources.base import Listed, Offer
from imgstored.sources.server import AskLimits, Server
from imgstored.sources.spec import channel_of

if TYPE_CHECKING:
    from imgstored.http.documents import Fetch
    from imgstored.sources.answers import Page
    from imgstored.sources.base import SourceSpec

log = structlog.get_logger(__name__)

#: Images that are asked for at a time: what a server gives at most.
PAGE = 1000

#: Pages of one list; servers have a few hundred images, and some give 50 at a time.
_MAX_PAGES = 100

_NOT_FOUND = 404
_OTHER_TYPES = (
    "the URL may be wrong, or the server of another type: `sources -a URL -t static` is for a plain web"
    " server, `-t dsapi` for an old one"
)

_HEADERS = (("Accept-Version", "~2"),)


class ImgapiSource:
    """`/ping`, `/images`, `/images/UUID`, `/images/UUID/file`; of the source's channel, where it has one."""

    def __init__(self, spec: SourceSpec, *, fetch: Fetch, limits: AskLimits) -> None:
        self.spec = spec
        self._server = Server(spec, fetch=fetch, headers=_HEADERS, channel=channel_of(spec))
        self._limits = limits

    @property
    def incomplete(self) -> str | None:
        """As the contract says."""
        return self._server.incomplete

    async def ping(self) -> None:
        """Returns if the server says that it is an IMGAPI."""
        url = self._server.url("/ping")
        try:
            answer = one_object(url, await self._server.demand(url, self._limits.ping))
        except APIError as error:
            if error.data.get("status") in (None, _NOT_FOUND):
                error.hint = _OTHER_TYPES
            raise
        if not answer.get("imgapi"):
            raise APIError(f"{shown(url)}: the server does not say that it is an IMGAPI", hint=_OTHER_TYPES)

    async def list(self) -> list[Listed]:
        """All images, page after page."""
        images: dict[str, Listed] = {}
        seconds = self._limits.listing.total_seconds
        with trio.move_on_after(seconds):
            self._server.incomplete = await self._turn_pages(images)
            return [*images.values()]
        raise ClientError(f"{shown(self.spec.url)}: no complete list within {seconds:g} s")

    async def offer(self, uuid: str) -> Offer | None:
        """The image; its file is where IMGAPI has it, whatever the manifest says."""
        url = self._server.url(f"/images/{check_uuid(uuid)}")
        body = await self._server.get(url, self._limits.manifest)
        if body is None:
            return None
        manifest = upgrade(the_manifest(url, body, uuid))
        has_file = bool(manifest.get("files"))
        file = self._server.location(self._server.url(f"/images/{uuid}/file")) if has_file else None
        return Offer(manifest, file)

    async def _turn_pages(self, images: dict[str, Listed]) -> str:
        """Asks until a page has nothing new: it is the last one, or the server does not know pages.

        A page that is not full may still not be the last one: a server may give fewer than it is asked for.
        Returns why the list may lack images; an empty text where nothing hints at that.
        """
        page, room = await self._page(PAGE, None, MAX_LIST)
        seen = page.uuids
        left_out = page.left_out
        images.update(_by_uuid(page))
        for turned in range(_MAX_PAGES - 1):
            if page.last is None:
                return self._incomplete(left_out, None)
            before = page.elements
            try:
                page, room = await self._page(PAGE, page.last, room)
            except (APIError, ClientError) as error:
                if turned or before >= PAGE:
                    raise
                # Most servers have given all by then, and some do not know the question.
                log.info("a list may go on", url=shown(self.spec.url), error=error.message)
                refused = 400 <= error.data.get("status", 0) < 500
                cut = not refused or await self._may_be_cut(before)
                return self._incomplete(left_out, before if cut else None)
            if page.uuids <= seen:
                # A server that has turned pages has none after the last one.
                cut = not turned and await self._may_be_cut(page.elements)
                return self._incomplete(left_out, before if cut else None)
            seen |= page.uuids
            left_out += page.left_out
            images.update({uuid: image for uuid, image in _by_uuid(page).items() if uuid not in images})
        raise APIError(f"{shown(self.spec.url)}: the list of images does not end")

    async def _page(self, limit: int, marker: str | None, room: int) -> tuple[Page, int]:
        """So many images after the marker; and what is left of `room`, bytes of the whole list."""
        parameters = [("limit", str(limit))]
        if marker is not None:
            parameters.append(("marker", marker))
        url = self._server.url("/images", parameters)
        body = await self._server.demand(url, self._limits.listing)
        if len(body) > room:
            raise APIError(f"{shown(self.spec.url)}: the list of images does not end")
        return await lanes.in_thread(read_page, url, body, self.spec.url), room - len(body)

    async def _may_be_cut(self, elements: int) -> bool:
        """True if a server that gave so many images, and cannot turn pages, may have more.

        It may unless it ignores how many it is asked for: then it has given all that it gives at all.
        """
        if elements <= 1 or elements >= PAGE:
            return elements == PAGE
        try:
            page, _ = await self._page(1, None, MAX_LIST)
        except (APIError, ClientError):
            return True
        return page.elements < elements

    def _incomplete(self, left_out: LeftOut, cut_at: int | None) -> str:
        url = self.spec.url
        words = [left_out.words(url)]
        if cut_at is not None:
            words.append(
                f"the list of {shown(url)} may be cut: the server gives {cut_at} images, and no further pages"
            )
        return "; ".join(filter(None, words))


def _by_uuid(page: Page) -> dict[str, Listed]:
    return {image.manifest["uuid"]: image for image in page.images}
