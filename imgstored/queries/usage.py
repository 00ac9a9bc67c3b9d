"""The space that images occupy, and their clones, for each pool as it is now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imgstored.errors import ImageNotInstalledError, ImgstoreError
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproto.documents import UsageDocument, UsedDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage
    from imgstored.catalog.refresh import Refresh
    from imgstored.pools.base import Pool, Space


class Usage:
    """Answers `usage`. For trio's thread."""

    def __init__(self, catalog: Catalog, refresh: Refresh) -> None:
        self._catalog = catalog
        self._refresh = refresh

    async def usage(self, pool: str | None = None, uuids: Sequence[str] = ()) -> list[UsageDocument]:
        """One pool or all, each with its images, or those of `uuids`: the protocol's *usage*.

        A pool that does not answer has an `error`, and no images. Raises `ImageNotInstalledError` if none of
        the pools that answer has a uuid, `PoolNotFoundError`, `InvalidUUIDError`.
        """
        for uuid in uuids:
            check_uuid(uuid)
        names = list(self._catalog.pools) if pool is None else [self._catalog.pool(pool).name]
        found = {name: await self._of_pool(name, set(uuids)) for name in names}
        there = {image["uuid"] for each in found.values() for image in each["images"]}
        for uuid in uuids:
            if uuid not in there:
                raise ImageNotInstalledError(uuid, names[0])
        return list(found.values())

    async def _of_pool(self, name: str, wanted: set[str]) -> UsageDocument:
        try:
            await self._refresh.pool(name)
            space, used = await self._catalog.ask(name, partial(_measured, self._catalog.pool(name)))
        except ImgstoreError as error:
            # It must not hide the images of other pools.
            return {"zpool": name, "total": None, "available": None, "images": [], "error": error.as_wire()}
        clones = self._catalog.clones()
        there = self._catalog.of_pool(name)
        shared = self._catalog.pool(name).shared
        images = [
            _as_wire(
                image,
                used.get(image.uuid, image.image.used),
                image.image.referenced if shared else _data(image, there),
                clones.get((name, image.uuid), []),
            )
            for image in self._catalog.all()
            if image.pool == name and (not wanted or image.uuid in wanted)
        ]
        return {"zpool": name, "total": space.total, "available": space.available, "images": images}


def _measured(pool: Pool) -> tuple[Space, dict[str, int]]:
    """The pool's space, and that of its images now: the catalog has their first sizes. Blocks."""
    return pool.space(), {image.uuid: image.used for image in pool.images()}


def _data(image: InstalledImage, there: Mapping[str, InstalledImage]) -> int:
    """The bytes of an image's data in a pool of streams: an incremental image needs its origins', too."""
    data, met = image.image.referenced, {image.uuid}
    while image.image.kind != "volume":
        origin = there.get(image.origin or "")
        if origin is None or origin.uuid in met:
            break
        image = origin
        met.add(image.uuid)
        data += image.image.referenced
    return data


def _as_wire(image: InstalledImage, used: int, referenced: int, clones: list[str]) -> UsedDocument:
    name, version = (
        None if image.manifest.get(key) is None else image.text(key) for key in ("name", "version")
    )
    return {
        "uuid": image.uuid,
        "name": name,
        "version": version,
        "origin": image.origin,
        "used": used,
        "referenced": referenced,
        "clones": clones,
    }
