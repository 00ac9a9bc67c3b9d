"""The images that the cases import: made once, kept in the work folder, and served from there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.content import usr_content
from bench.progress import say
from tests.support.streams import stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SPACE = uuid.UUID("7d3b2e1a-5c0f-4a52-9d0e-52d0a8c0f1b6")


@dataclass(frozen=True, slots=True)
class Kind:
    """The recipe of an input. `compress` is a command that reads the stream and writes the file."""

    name: str
    compression: str
    compress: tuple[str, ...]
    stream_size: int  #: bytes of content; the stream is a little larger

    @property
    def uuid(self) -> str:
        """The image's uuid; another recipe has another one."""
        return str(uuid.uuid5(_SPACE, f"{self.name} {' '.join(self.compress)} {self.stream_size}"))


@dataclass(frozen=True, slots=True)
class Input:
    """An image file in the served folder, and its manifest."""

    manifest: dict[str, Any]
    path: Path

    @property
    def uuid(self) -> str:
        """The image's."""
        return str(self.manifest["uuid"])

    @property
    def compression(self) -> str:
        """As the manifest names it."""
        return str(self.manifest["files"][0]["compression"])

    @property
    def sha1(self) -> str:
        """Of the compressed file, in hexadecimal."""
        return str(self.manifest["files"][0]["sha1"])

    @property
    def size(self) -> int:
        """Bytes of the compressed file."""
        return int(self.manifest["files"][0]["size"])

    def url(self, server: str) -> str:
        """The file's URL on a server of the served folder."""
        return f"{server}/{self.uuid}/file"


class Inputs:
    """The served folder: `index.html` lists the images, `UUID/file` is an image's file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._listed: dict[str, Input] = {}

    def get(self, kind: Kind) -> Input:
        """The image, which is made if it is not there, and is in the server's list from now on."""
        if kind.uuid not in self._listed:
            self._listed[kind.uuid] = self._known(kind) or self._made(kind)
            manifests = [each.manifest for each in self._listed.values()]
            (self.folder / "index.html").write_text(json.dumps(manifests))
        return self._listed[kind.uuid]

    def _known(self, kind: Kind) -> Input | None:
        folder = self.folder / kind.uuid
        try:
            found = Input(json.loads((folder / "manifest.json").read_text()), folder / "file")
        except FileNotFoundError:
            return None
        return found if found.path.stat().st_size == found.size else None

    def _made(self, kind: Kind) -> Input:
        say(f"making {kind.name}: {kind.stream_size / 1e6:.0f} MB of stream, by {' '.join(kind.compress)}")
        folder = self.folder / kind.uuid
        folder.mkdir(exist_ok=True)
        stream = stream_of(usr_content(kind.stream_size), guid=int(kind.uuid[:8], 16) | 1)
        sha1 = _written(stream, kind.compress, folder / "file")
        made = Input(_manifest(kind, (folder / "file").stat().st_size, sha1), folder / "file")
        (folder / "manifest.json").write_text(json.dumps(made.manifest))
        return made


def _written(stream: Iterable[bytes], command: tuple[str, ...], path: Path) -> str:
    """Compresses into the file; returns the file's SHA-1."""
    with path.open("wb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
        assert process.stdin is not None
        for piece in stream:
            process.stdin.write(piece)
        process.stdin.close()
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    with path.open("rb") as written:
        return hashlib.file_digest(written, "sha1").hexdigest()


def _manifest(kind: Kind, size: int, sha1: str) -> dict[str, Any]:
    return {
        "v": 2,
        "uuid": kind.uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": f"bench-{kind.name}",
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2026-11-24T00:00:00.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"size": size, "sha1": sha1, "compression": kind.compression}],
    }
