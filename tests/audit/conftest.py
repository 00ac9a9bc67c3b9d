"""A state folder with three installed images, as a daemon that has stopped leaves it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.catalog.receipts import Receipts, receipt_of
from imgstored.imports.journal import Journal
from imgstored.library.library import Library
from imgstored.manifest import load
from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.pools.base import PoolImage


class Host:
    """`folder` has the configuration and the state of a host with the three fixture images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "imgstored.toml"
        self.config.write_text(f'state = "{self.state}"\n[library]\nkeep_mib = 100\n')
        self.state.mkdir(mode=0o700)
        (self.state / "spool").mkdir()
        self.manifests = ManifestFiles(self.state / "imgadm" / "images")
        self.manifests.prepare()
        self.receipts = Receipts(self.state / "receipts")
        self.images: dict[str, PoolImage] = {}
        self.journal = Journal(self.state / "journal.sqlite")
        self.journal.close()
        self._install()

    @property
    def pool(self) -> Path:
        return self.state / "pool"

    def _install(self) -> None:
        pool = EmbeddedPool("zones", self.pool)
        for uuid, name, origin in (
            (BASE, "base", None),
            (INCREMENTAL, "incremental", BASE),
            (ZVOL, "zvol", None),
        ):
            stream = real_stream(name)
            image = pool.receive(uuid, [stream], origin=origin)
            self.manifests.write("zones", uuid, fixture_manifest(uuid), "https://example.com/")
            below = None if origin is None else self.images[origin].guid
            self.receipts.write("zones", uuid, receipt_of(image, len(stream), below))
            self.images[uuid] = pool.publish(uuid)
        pool.close()
        library = Library(self.state / "library", 100 << 20)
        library.open()
        file = self.folder / "file"
        file.write_bytes(fixture_file(BASE).read_bytes())
        library.keep(load(fixture_manifest(BASE), rules="import"), file)

    def check(self, *options: str) -> tuple[int, list[dict[str, str]]]:
        """The exit status, and what was found that is not right, by the program."""
        done = self.run("--json", *options)
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return done.returncode, [finding for finding in findings if finding["status"] != "ok"]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "imgstored", "--config", self.config, "--check", "--deep", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        return done

    def files(self) -> dict[str, bytes | None]:
        """All that is in the state folder, but SQLite's own beside the databases."""
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.state.rglob("*")
            if not path.name.endswith(("-shm", "-wal"))
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)
