"""Image servers that speak IMGAPI (https://github.com/TritonDataCenter/sdc-imgapi/blob/master/docs/index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import trio

from imgstored import lanes
from imgstored.errors import APIError, ClientError
from imgstored.http.location import shown
from imgstored.manifest import MAX_LIST, check_uuid, upgrade
from imgstored.sources.answers import one_object, read_page, the_manifest
from imgstored.sources.base import Listed, Offer
from imgstored.sources.server import AskLimits, Server
from imgstored.sources.spec import channel_of

if TYPE_CHECKING:
    from imgstored.sources.base import SourceSpec
    from imgstored.sources.server import Fetch

log = structlog.get_logger(__name__)

#: Images that are asked for at a time: what a server gives at most.
PAGE = 1000

#: Pages of one list; servers have a few hundred images, and some give 50 at a time.
_MAX_PAGES = 100

_HEADERS = (("Accept-Version", "~2"),)


class ImgapiSource:
    """`/ping`, `/images`, `/images/UUID`, `/images/UUID/file`; of the source's channel, where it has one."""

    def __init__(self, spec: SourceSpec, *, fetch: Fetch, limits: AskLimits) -> None:
        self.spec = spec
        self._server = Server(spec, fetch=fetch, headers=_HEADERS, channel=channel_of(spec))
        self._limits = limits

    async def ping(self) -> None:
        """Returns if the server says that it is an IMGAPI."""
        url = self._server.url("/ping")
        answer = one_object(url, await self._server.demand(url, self._limits.ping))
        if not answer.get("imgapi"):
            raise APIError(
                f"{shown(url)}: the server does not say that it is an IMGAPI",
                hint="name its type: -t dsapi, or -t static for a plain web server",
            )

    async def list(self) -> list[Listed]:
        """All images, page after page."""
        images: dict[str, Listed] = {}
        seconds = self._limits.listing.total_seconds
        with trio.move_on_after(seconds):
            await self._turn_pages(images)
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

    async def _turn_pages(self, images: dict[str, Listed]) -> None:
        """Asks until a page has nothing new: it is the last one, or the server does not know pages.

        A page that is not full may still not be the last one: a server may give fewer than it is asked for.
        """
        marker: str | None = None
        room = MAX_LIST
        before = PAGE  # elements of the page before
        for _ in range(_MAX_PAGES):
            parameters: list[tuple[str, str]] = [("limit", str(PAGE))]
            if marker is not None:
                parameters.append(("marker", marker))
            url = self._server.url("/images", parameters)
            try:
                body = await self._server.demand(url, self._limits.listing)
                page = await lanes.in_thread(read_page, url, body, self.spec.url)
            except (APIError, ClientError) as error:
                if before >= PAGE:
                    raise
                # Most servers have given all by then, and some do not know the question.
                log.info("a list may go on", url=shown(url), error=error.message)
                return
            known = len(images)
            for image in page.images:
                images.setdefault(_uuid(image), image)
            if len(images) == known:
                if marker is not None and before == PAGE == page.elements:
                    log.warning(
                        "a source's list may be cut: it does not know pages", url=shown(url), images=known
                    )
                return
            room -= len(body)
            if room < 0:
                break
            before, marker = page.elements, _uuid(page.images[-1])
        raise APIError(f"{shown(self.spec.url)}: the list of images does not end")


def _uuid(image: Listed) -> Any:
    return image.manifest["uuid"]
