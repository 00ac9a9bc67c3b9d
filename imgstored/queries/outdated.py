"""Installed images for which a source has a newer version. `newer` decides, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgstored.manifest import shown_text
from imgstored.queries.names import named, published

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgproto.documents import OfferedDocument, OldDocument, OutdatedDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage
    from imgstored.catalog.refresh import Refresh
    from imgstored.sources.source_set import SourceSet

#: The fields that an image and its newer version have in common.
_SAME = ("name", "os", "type")


class Outdated:
    """Answers `outdated`. For trio's thread."""

    def __init__(self, catalog: Catalog, refresh: Refresh, sources: SourceSet) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._sources = sources

    async def outdated(self, pool: str | None = None) -> OutdatedDocument:
        """The outdated images of one pool, or of all, by the lists of all sources.

        The result also names sources that did not answer, and lists that may lack images. Raises
        `PoolNotFoundError`, `NoSourcesError`, `ConfigError`.
        """
        names = list(self._catalog.pools) if pool is None else [self._catalog.pool(pool).name]
        await self._refresh.all()
        offered = await self._sources.available()
        installed = [image for image in self._catalog.all() if image.pool in names]
        return {
            "images": newer(installed, offered["images"]),
            "problems": offered["problems"],
            "incomplete": offered["incomplete"],
        }


def newer(installed: Iterable[InstalledImage], offered: Sequence[OfferedDocument]) -> list[OldDocument]:
    """The installed images for which `offered` has a newer one that is not installed.

    Only images that can be imported count, and have the same name, os and type.
    """
    images = [*installed]
    there = {(image.pool, image.uuid) for image in images}
    newest: dict[tuple[str, ...], OfferedDocument] = {}
    for offer in offered:
        manifest = offer["manifest"]
        key = _key(manifest)
        if key is None or manifest.get("state") not in (None, "active"):
            continue
        if key not in newest or published(named(manifest)) > published(named(newest[key]["manifest"])):
            newest[key] = offer
    found: list[OldDocument] = []
    for image in images:
        key = _key(image.manifest)
        offer_ = None if key is None else newest.get(key)
        if offer_ is None or (image.pool, offer_["manifest"]["uuid"]) in there:
            continue
        old, new = named({**image.manifest, "uuid": image.uuid}), named(offer_["manifest"])
        if published(new) > published(old):
            found.append(
                {
                    "uuid": old.uuid,
                    "zpool": image.pool,
                    "name": old.name,
                    "version": old.version,
                    "published_at": old.published_at,
                    "newer": {
                        "uuid": new.uuid,
                        "version": new.version,
                        "published_at": new.published_at,
                        "source": offer_["source"],
                    },
                }
            )
    return found


def _key(manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The common fields; None for an image without a name, which has no other versions."""
    if not manifest.get("name"):
        return None
    return tuple(shown_text(manifest.get(field)) for field in _SAME)
