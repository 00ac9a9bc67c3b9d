"""From a wish to the layers that fulfil it: the image, and every ancestor that is not installed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from imgstored import import_id
from imgstored.errors import InvalidManifestError, OriginNotInstalledError
from imgstored.events.notifications import AlreadyInstalled, AncestorInstalled, GatheringAncestry, Importing
from imgstored.http.location import public
from imgstored.imports.installer import FromSources
from imgstored.imports.layer import Layer
from imgstored.manifest.platform import Platform, check_platform
from imgstored.sources.lookup import Lookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.catalog.catalog import Catalog, Key
    from imgstored.events.request import Request
    from imgstored.imports.manager import Imports
    from imgstored.sources.lookup import Wanted
    from imgstored.sources.registry import Found
    from imgstored.sources.sourcebook import SourceBook

log = structlog.get_logger(__name__)

#: As IMGAPI servers allow at most.
MAX_ANCESTRY = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """Which image, where to, and from where if not from the configured sources."""

    uuid: str
    pool: str
    sources: tuple[str, ...] | None = None
    channel: str | None = None
    zstream: bool = False  #: the files are not those that the manifests describe: any size, any checksum


class Ancestry:
    """Looks images up in the sources, and starts a layer for each that has none."""

    def __init__(
        self,
        catalog: Catalog,
        imports: Imports,
        sources: SourceBook,
        platform: Platform | None,
        deleting: Callable[[Key], bool],
    ) -> None:
        self._catalog = catalog
        self._imports = imports
        self._sources = sources
        self._platform = platform
        self._deleting = deleting
        self._lookup = Lookup(self._ask)

    async def find(self, wish: Wish, uuid: str, *, active: bool) -> Found:
        """The image in the sources of the wish. Raises what they raise."""
        return await self._lookup.find((uuid, active, wish.sources, wish.channel), self._imports.nursery)

    async def layer(self, request: Request, wish: Wish) -> Layer | None:
        """The layer of the wished image, its ancestors' below it; None when it was installed meanwhile."""
        head = await self._find(wish, wish.uuid, active=True)
        request.emit(
            Importing(
                wish.uuid, head.manifest.name, head.manifest.version, public(head.source.url), wish.channel
            )
        )
        request.emit(GatheringAncestry(wish.uuid))
        chain = await self._gather(request, wish, head)
        for found in chain:
            check_platform(found.manifest, self._platform)
        # From here to the end nothing is awaited: what is looked up cannot change before it is joined.
        layer: Layer | None = None
        for found in reversed(chain):
            layer = self._layer_for(wish, found, layer)
        installed = self._catalog.find(wish.pool, wish.uuid)
        if installed is not None:
            request.emit(AlreadyInstalled(wish.uuid, installed.text("name"), installed.text("version")))
            return None
        return layer

    async def _gather(self, request: Request, wish: Wish, head: Found) -> list[Found]:
        """The image and its ancestors, down to the first that is installed or under way."""
        chain = [head]
        while (origin := chain[-1].manifest.origin) is not None:
            if self._catalog.find(wish.pool, origin) is not None:
                request.emit(AncestorInstalled(origin))
                break
            if self._imports.get((wish.pool, origin)) is not None:
                break
            if len(chain) >= MAX_ANCESTRY or any(found.manifest.uuid == origin for found in chain):
                raise InvalidManifestError(
                    f'image "{wish.uuid}" has an endless ancestry at origin "{origin}"',
                    hint=f"the manifests at {public(head.source.url)} are wrong; tell whoever runs it",
                )
            chain.append(await self._find(wish, origin, active=False))
        return chain

    def _layer_for(self, wish: Wish, found: Found, origin: Layer | None) -> Layer | None:
        manifest = found.manifest
        key = (wish.pool, manifest.uuid)
        if self._catalog.find(*key) is not None:
            return None
        if (layer := self._imports.get(key)) is not None:
            return layer
        if manifest.origin is not None and origin is None:
            origin = self._imports.get((wish.pool, manifest.origin))
            if origin is None:
                self._check_there(wish.pool, manifest.uuid, manifest.origin)
        locations = found.locations
        if wish.zstream:
            # Another source may have made another stream of the image.
            manifest, locations = replace(manifest, file=None), locations[:1]
        about = found.import_id or import_id.fresh()
        layer = Layer(wish.pool, manifest, public(found.source.url), origin, about)
        self._imports.start(layer, FromSources(locations, wish.sources, wish.channel, wish.zstream))
        return layer

    def _check_there(self, pool: str, uuid: str, origin: str) -> None:
        if self._catalog.find(pool, origin) is None or self._deleting((pool, origin)):
            raise OriginNotInstalledError(
                f'origin image "{origin}" of image "{uuid}" was deleted meanwhile',
                hint="ask again: it is then imported too",
            )

    async def _find(self, wish: Wish, uuid: str, *, active: bool) -> Found:
        # The image that is wished for has its id already; an origin gets its own.
        about = import_id.current() if uuid == wish.uuid else None
        with import_id.bound(about or import_id.fresh()):
            return await self.find(wish, uuid, active=active)

    async def _ask(self, wanted: Wanted) -> Found:
        uuid, active, sources, channel = wanted
        log.debug("looking for an image", uuid=uuid)
        found = await self._sources.find(uuid, active=active, sources=sources, channel=channel)
        # Others may wait for this answer, too: whoever goes on with it has the id of the search's lines.
        return replace(found, import_id=import_id.current() or "")
