"""The state folder of a daemon with many installed images: one that was received, and copies of it."""

from __future__ import annotations

import json
import shutil
import uuid
from typing import TYPE_CHECKING

from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, fixture_manifest
from tests.support.streams import filesystem_stream, in_pieces

if TYPE_CHECKING:
    from pathlib import Path


def stock(state: Path, images: int) -> None:
    """Puts so many images into the pool, and into imgadm's folder, of a daemon that does not run."""
    names = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))) for number in range(images)]
    pool = EmbeddedPool("zones", state / "pool")
    pool.receive(names[0], in_pieces(filesystem_stream(size=1000, seed=1)))
    pool.publish(names[0])
    pool.close()
    first = state / "pool" / names[0]
    note = json.loads((first / "image.json").read_text())
    manifests = state / "imgadm" / "images"
    manifests.mkdir(parents=True)
    for number, name in enumerate(names):
        folder = state / "pool" / name
        if number:
            shutil.copytree(first, folder)
            (folder / "image.json").write_text(json.dumps({**note, "uuid": name}))
        manifest = {
            **fixture_manifest(BASE),
            "uuid": name,
            "name": f"base-{number % 40}",
            "version": f"{number}.0",
        }
        record = {"manifest": manifest, "zpool": "zones"}
        (manifests / f"zones-{name}.json").write_text(json.dumps(record, indent=2))
