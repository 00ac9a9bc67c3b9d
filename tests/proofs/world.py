"""A small world: an image server with small images of each kind, and the configuration of a daemon for it."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from tests.support import layers
from tests.support.deltas import indexed
from tests.support.image_site import ZVOL, ImageSite, fixture_manifest
from tests.support.layers import folder, tar_of
from tests.support.nginx import Nginx, free_port
from tests.support.streams import (
    filesystem_stream,
    guid_of,
    random_content,
    real_stream,
    stream_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TOKEN: Final = "a-token-of-the-proofs"

#: A full image, one that is cloned from it, one in several ranges, and a volume; two that are published;
#: two layers of a container image; and the next version of LARGE, with an index for deltas.
SMALL, CLONE, LARGE, VOLUME, FIRST, SECOND, LOWER, UPPER, NEXT = (
    f"33333333-aaaa-4bbb-8ccc-00000000000{number}" for number in range(1, 10)
)
IMAGES: Final = (SMALL, CLONE, LARGE, VOLUME, LOWER, UPPER, NEXT)
#: In the guest the streams are such as ZFS takes.
_IN_GUEST: Final = bool(os.environ.get("IMGSTORE_GUEST"))
#: What is built on what.
ORIGINS: Final = {CLONE: SMALL, UPPER: LOWER}
PUBLISHED: Final = (FIRST, SECOND)
#: Bytes of data in one record of a stream.
_RECORD: Final = 128 << 10
#: MiB of files that the library keeps: fewer than all of them, so that some are evicted.
_KEEP: Final = 2


@dataclass(frozen=True)
class Made:
    """An image as a server has it."""

    manifest: Mapping[str, Any]
    file: bytes
    index: bytes = b""


@cache
def made() -> dict[str, Made]:
    """All images by their uuids."""
    streams = _real_streams() if _IN_GUEST else _made_up_streams()
    return {uuid: _made(uuid, stream, number) for number, (uuid, stream) in enumerate(streams.items())}


def _real_streams() -> dict[str, bytes]:
    """Streams that ZFS takes."""
    from tests.guest.zpool import two_versions

    before, after = two_versions(size=1900 << 10, record=_RECORD)
    return _made_up_streams() | {
        SMALL: real_stream("base"),
        CLONE: real_stream("incremental"),
        LARGE: before,
        VOLUME: real_stream("zvol"),
        NEXT: after,
    }


def _made_up_streams() -> dict[str, bytes]:
    return {
        SMALL: filesystem_stream(size=200 << 10, seed=1),
        CLONE: filesystem_stream(size=100 << 10, seed=2, fromguid=guid_of(1)),
        LARGE: filesystem_stream(size=1900 << 10, seed=3),
        VOLUME: b"".join(stream_of(random_content(160 << 10, 4), guid=guid_of(4), objset="volume")),
        FIRST: filesystem_stream(size=64 << 10, seed=5),
        SECOND: filesystem_stream(size=128 << 10, seed=6),
        LOWER: tar_of(folder("etc"), *(layers.file(f"etc/{name}", b"lower" * 999) for name in "abc")),
        UPPER: tar_of(layers.file("etc/.wh.a"), layers.file("etc/b", b"upper"), layers.link("etc/d", "b")),
        NEXT: _upgraded(1900 << 10, 3),
    }


def _upgraded(size: int, seed: int) -> bytes:
    """The stream of the same content as that of LARGE, but for one record in five."""
    content = bytearray(b"".join(random_content(size, seed)))
    for number, start in enumerate(range(0, size, 5 * _RECORD)):
        content[start : start + _RECORD] = random.Random(number).randbytes(_RECORD)
    return b"".join(stream_of([bytes(content)], guid=guid_of(9)))


def _made(uuid: str, stream: bytes, number: int) -> Made:
    file = gzip.compress(stream, compresslevel=1, mtime=0)
    index, described = b"", dict[str, Any](compression="gzip")
    if uuid == NEXT:
        file, index = indexed(stream)
        described = {
            "compression": "zstd",
            "index": {"sha256": hashlib.sha256(index).hexdigest(), "size": len(index)},
        }
    manifest: dict[str, Any] = {
        "v": 2,
        "owner": "00000000-0000-0000-0000-000000000000",
        "state": "active",
        "disabled": False,
        "public": True,
        "type": "zone-dataset",
        "os": "smartos",
    }
    if uuid == VOLUME:
        manifest = fixture_manifest(ZVOL)
        if not _IN_GUEST:
            manifest["image_size"] = 1
    if uuid in (LOWER, UPPER):
        manifest |= {"type": "docker", "os": "linux"}
    if uuid in ORIGINS:
        manifest["origin"] = ORIGINS[uuid]
    manifest |= {
        "uuid": uuid,
        "name": "upgraded" if uuid in (LARGE, NEXT) else f"image-{number}",
        "version": "1.0.0",
        "published_at": f"2026-11-24T00:00:0{number}.000Z",
        "files": [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), **described}],
    }
    return Made(manifest, file, index)


@contextmanager
def image_server(folder: Path) -> Iterator[str]:
    """The URL of an nginx that has the images."""
    with running_nginx(folder) as nginx:
        yield nginx.url


@contextmanager
def running_nginx(folder: Path) -> Iterator[Nginx]:
    """An nginx that has the images, and may be stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    pages = ImageSite(folder / "site")
    for uuid in IMAGES:
        image = made()[uuid]
        pages.add(image.manifest, image.file)
        if image.index:
            (pages.folder / uuid / "file.index").write_bytes(image.index)
    with Nginx(folder / "nginx", root=pages.folder) as nginx:
        yield nginx


@dataclass(frozen=True)
class Settings:
    """Where a daemon has what it has. The port is that of its image server."""

    folder: Path
    state: Path
    url: str
    port: int

    def write(self, *, serves: bool = True) -> Path:
        """The file of its configuration. Without an image server it keeps no files, and fetches deltas."""
        file = self.folder / "imgstored.toml"
        images = self.folder / "images"
        images.mkdir(exist_ok=True)
        file.write_text(
            f'state = "{self.state}"\n'
            f'[socket]\npath = "{self.folder}/sock"\n'
            f'[view]\nmode = "files"\npath = "{images}"\n'
            f'[limits]\nmin_free_mib = 1\ndeltas = "always"\n'
            f'[[sources]]\nurl = "{self.url}"\ntype = "static"\n' + (self._server() if serves else "")
        )
        return file

    def _server(self) -> str:
        return (
            f"[library]\nkeep_mib = {_KEEP}\n"
            f'[serve]\nlisten = "127.0.0.1:{self.port}"\ntokens = {{ proofs = "{TOKEN}" }}\n'
        )


def settings(folder: Path, url: str, state: Path | None = None) -> Settings:
    """The settings of a daemon in a folder, which is made; its state is elsewhere if that is said."""
    folder.mkdir(parents=True, exist_ok=True)
    return Settings(folder, state or folder / "state", url, free_port())
