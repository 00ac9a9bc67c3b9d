"""Lays out a folder that a web server serves as an image server of the static kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent.parent / "data"

BASE = "11111111-aaaa-4bbb-8ccc-000000000001"
INCREMENTAL = "11111111-aaaa-4bbb-8ccc-000000000002"
ZVOL = "11111111-aaaa-4bbb-8ccc-000000000003"

#: SHA-256 of the zvol's whole device, from tests/data/README.md.
ZVOL_SHA256 = "d81ae44870f201872606cb189dfca03410e5867fc2e6c6b934a74725e0f1f1ff"

_FILES = {BASE: "base.zfs.gz", INCREMENTAL: "incremental.zfs.xz", ZVOL: "zvol.zfs.bz2"}


def fixture_manifest(uuid: str) -> dict[str, Any]:
    """The manifest of one of the three fixture images."""
    path = DATA / _FILES[uuid].replace(".zfs", ".imgmanifest").rsplit(".", 1)[0]
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def fixture_file(uuid: str) -> Path:
    """The image file of one of the three fixture images."""
    return DATA / _FILES[uuid]


class ImageSite:
    """The served folder: `index.html` is the list, `UUID/file` the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self._write_list()

    def add(self, manifest: Mapping[str, Any], file: Path | bytes) -> None:
        """Publishes an image."""
        folder = self.folder / str(manifest["uuid"])
        folder.mkdir(exist_ok=True)
        target = folder / "file"
        if isinstance(file, Path):
            shutil.copyfile(file, target)
        else:
            target.write_bytes(file)
        self.manifests.append(dict(manifest))
        self._write_list()

    def add_fixtures(self) -> None:
        """Publishes the three fixture images."""
        for uuid in _FILES:
            self.add(fixture_manifest(uuid), fixture_file(uuid))

    def _write_list(self) -> None:
        (self.folder / "index.html").write_text(json.dumps(self.manifests))
