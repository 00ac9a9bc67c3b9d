"""What is installed: the pools' images, with their manifests in imgadm's own files.

A pool decides what is there; a manifest file says what it is (imgadm's `/var/imgadm/images/POOL-UUID.json`:
`{manifest, zpool, source}`, 2-space JSON). A manifest without its image is no installed image.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from imgstored.errors import ImageNotInstalledError, InvalidManifestError, PoolNotFoundError
from imgstored.manifest import MAX_LIST, parse
from imgstored.store.durable import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from imgstored.pools.base import Pool, PoolImage

log = structlog.get_logger(__name__)

Key = tuple[str, str]  #: (pool's name, uuid)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """An image that every reader may see."""

    pool: str
    image: PoolImage
    manifest: Mapping[str, Any] = field(repr=False)
    source: str | None = None

    @property
    def uuid(self) -> str:
        """The image's."""
        return self.image.uuid

    @property
    def origin(self) -> str | None:
        """The uuid of the image it was cloned from."""
        return self.image.origin

    def text(self, key: str) -> str:
        """A field of the manifest for people; "-" where an image has lost its manifest."""
        value = self.manifest.get(key)
        return value if isinstance(value, str) else "-"


class Catalog:
    """The installed images of all pools, in memory. Its files are touched only by the methods that say so."""

    def __init__(self, pools: Mapping[str, Pool], folder: Path) -> None:
        self.pools = pools
        self._folder = folder
        self._images: dict[Key, InstalledImage] = {}

    # -- in memory -------------------------------------------------------------------------------------------

    def pool(self, name: str | None) -> Pool:
        """The pool of that name; the first one for None. Raises `PoolNotFoundError`."""
        if name is None:
            return next(iter(self.pools.values()))
        try:
            return self.pools[name]
        except KeyError:
            known = ", ".join(self.pools)
            raise PoolNotFoundError(
                f'no such pool: "{name}"',
                hint=f"imgstored looks after {known}; see `pool` in its configuration",
            ) from None

    def find(self, pool: str, uuid: str) -> InstalledImage | None:
        """The image, or None."""
        return self._images.get((pool, uuid))

    def get(self, pool: str, uuid: str) -> InstalledImage:
        """The image, or `ImageNotInstalledError`."""
        image = self.find(pool, uuid)
        if image is None:
            raise ImageNotInstalledError(uuid, pool)
        return image

    def all(self) -> list[InstalledImage]:
        """All images, oldest first, as imgadm lists them."""
        return sorted(
            self._images.values(),
            key=lambda image: (image.text("published_at"), image.text("name"), image.uuid),
        )

    def clones(self) -> dict[Key, list[str]]:
        """For each image that others are cloned from, their names."""
        names: dict[Key, list[str]] = {}
        for image in self._images.values():
            if image.origin is not None:
                names.setdefault((image.pool, image.origin), []).append(f"{image.pool}/{image.uuid}")
        return names

    def add(self, image: InstalledImage) -> None:
        """From now on it is installed."""
        self._images[image.pool, image.uuid] = image

    def remove(self, pool: str, uuid: str) -> None:
        """From now on it is not installed."""
        self._images.pop((pool, uuid), None)

    # -- files (blocking) ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Reads what is installed. Where a manifest is missing or broken, the image is still listed."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, pool in self.pools.items():
            for image in pool.images():
                self.add(self._with_manifest(name, image))

    def write_manifest(self, pool: str, uuid: str, manifest: Mapping[str, Any], source: str | None) -> None:
        """Writes imgadm's file for an image, so that it survives a power cut once this returns."""
        record: dict[str, Any] = {"manifest": dict(manifest), "zpool": pool}
        if source is not None:
            record["source"] = source
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._path(pool, uuid), text.encode("utf-8", "replace"), mode=0o644)

    def forget_manifest(self, pool: str, uuid: str) -> None:
        """Removes imgadm's file of an image that is not there (any more)."""
        self._path(pool, uuid).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes manifests of images that are not there: an import or a deletion did not come to its end."""
        for name in self.pools:
            for path in self._folder.glob(f"{name}-*.json*"):
                uuid = path.name.removeprefix(f"{name}-").partition(".")[0]
                if _UUID.fullmatch(uuid) and self.find(name, uuid) is None:
                    log.info("removing the manifest of an image that is not there", pool=name, uuid=uuid)
                    path.unlink(missing_ok=True)

    def _with_manifest(self, pool: str, image: PoolImage) -> InstalledImage:
        path = self._path(pool, image.uuid)
        try:
            # The file is indented, and so larger than the manifest that is in it.
            record = parse(path.read_bytes(), limit=MAX_LIST)
        except FileNotFoundError:
            log.warning("image without a manifest", pool=pool, uuid=image.uuid, path=str(path))
            record = {}
        except (InvalidManifestError, OSError) as error:
            log.error(
                "cannot read an image's manifest",
                pool=pool,
                uuid=image.uuid,
                path=str(path),
                error=str(error),
            )
            record = {}
        manifest, source = record.get("manifest"), record.get("source")
        if not isinstance(manifest, dict) or manifest.get("uuid") != image.uuid:
            manifest = {"uuid": image.uuid}
        return InstalledImage(pool, image, manifest, source if isinstance(source, str) else None)

    def _path(self, pool: str, uuid: str) -> Path:
        return self._folder / f"{pool}-{uuid}.json"


def as_wire(image: InstalledImage, clones: Iterable[str] = ()) -> dict[str, Any]:
    """The *image* of the protocol."""
    names = list(clones)
    wire: dict[str, Any] = {"manifest": dict(image.manifest), "zpool": image.pool}
    if image.source is not None:
        wire["source"] = image.source
    return {**wire, "cloneNames": names, "clones": len(names)}
