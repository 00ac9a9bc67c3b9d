"""Another program that installs and deletes images in a pool, in imgadm's order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_manifest
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from pathlib import Path

_STREAMS: dict[str, Any] = {BASE: "base", INCREMENTAL: "incremental", ZVOL: "zvol"}


class OtherWriter:
    """Changes the folder of a `SharedPool` named "zones" from outside. `work` is a folder of its own."""

    def __init__(self, work: Path, *, pool: Path, manifests: Path) -> None:
        self._work = work
        self._pool = pool
        self._manifests = manifests

    def install(self, uuid: str, *, origin: str | None = None) -> None:
        """The manifest, then the image, in one step."""
        received = EmbeddedPool("zones", self._work)
        try:
            for needed in (origin, uuid):
                if needed is not None and received.image(needed) is None:
                    above = None if needed == origin else origin
                    received.receive(needed, [real_stream(_STREAMS[needed])], origin=above)
                    received.publish(needed)
        finally:
            received.close()
        self.write_manifest(uuid)
        (self._work / uuid).rename(self._pool / uuid)

    def write_manifest(self, uuid: str, **fields: Any) -> None:
        """Not in one step, as imgadm does it."""
        record = {"manifest": fixture_manifest(uuid) | fields, "zpool": "zones", "source": "http://imgadm"}
        self.manifest(uuid).write_text(json.dumps(record, indent=2) + "\n")

    def manifest(self, uuid: str) -> Path:
        """Where an image's manifest is."""
        return self._manifests / f"zones-{uuid}.json"

    def delete(self, uuid: str) -> None:
        """The image, then the manifest."""
        (self._pool / uuid).rename(self._work / uuid)
        self.manifest(uuid).unlink()
