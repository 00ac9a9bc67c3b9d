"""`python -m bench.deltas OLD NEW`: how much of an image is fetched where an older one is installed.

OLD and NEW are plain send streams. Both become files with an index, on a static site behind nginx, and a real
daemon imports them into an embedded pool. The bytes are those of the log of nginx. NEW is also imported whole
by a daemon without deltas; both must have the same records.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imgstored.create.compress import compressed_with_index
from imgstored.delta.build import IndexBuilder
from tests.support.daemon import Daemon
from tests.support.deltas import NEW, OLD, Indexed, manifest_of
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 20


def main() -> int:
    """Prints one line of figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.deltas")
    parser.add_argument("--type", default="zone-dataset", help="of the images")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deltas-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        site = ImageSite(folder / "site")
        sizes = {}
        for uuid, stream in ((OLD, arguments.old), (NEW, arguments.new)):
            sizes[uuid] = _publish(site, uuid, stream, arguments.type)
        with Nginx(folder / "nginx", root=site.folder) as nginx:
            began = time.monotonic()
            with _daemon(folder / "whole", nginx.url, "never") as daemon:
                whole = _imported(daemon)
            took_whole = time.monotonic() - began
            with _daemon(folder / "delta", nginx.url, "always") as daemon:
                daemon.imgctl("import", OLD, check=True, timeout=3600)
                before = _sent(nginx)
                began = time.monotonic()
                delta = _imported(daemon)
                took = time.monotonic() - began
            fetched = _sent(nginx) - before
            requests = sum(hit.range != "" for hit in nginx.settled_hits() if hit.path == f"/{NEW}/file")
    if whole != delta:
        print("the streams of the images differ", file=sys.stderr)
        return 1
    file, index = sizes[NEW]
    print(
        f"{arguments.new.name}: stream {arguments.new.stat().st_size / 1e6:.1f} MB, file {file / 1e6:.1f} MB,"
        f" index {index / 1e6:.2f} MB; nginx sent {fetched / 1e6:.1f} MB ({100 * fetched / file:.1f} %)"
        f" in {requests} requests in all; import and export {took:.1f} s, whole {took_whole:.1f} s"
    )
    return 0


def _publish(site: ImageSite, uuid: str, stream: Path, type_: str) -> tuple[int, int]:
    """Puts an image on the site; the sizes of its file and of its index."""
    builder = IndexBuilder()
    with stream.open("rb") as source:
        file = b"".join(compressed_with_index(_pieces(source), builder))
    made = Indexed(file, builder.finish())
    site.add(manifest_of(made, uuid, type=type_), made.file)
    (site.folder / uuid / "file.index").write_bytes(made.index)
    return len(made.file), len(made.index)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


@contextmanager
def _daemon(folder: Path, url: str, deltas: str) -> Iterator[Daemon]:
    config = f'[[sources]]\nurl = "{url}"\ntype = "static"\n[limits]\ndeltas = "{deltas}"\n'
    with Daemon(folder, config=config, timeout=300) as daemon:
        yield daemon


def _imported(daemon: Daemon) -> str:
    """Imports the newer image; the SHA-256 of its stream."""
    daemon.imgctl("import", NEW, check=True, timeout=3600)
    out = daemon.folder / "out"
    daemon.imgctl("export", NEW, "-o", str(out), check=True, timeout=3600)
    (file,) = daemon.folder.glob("out.z*")
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _sent(nginx: Nginx) -> int:
    return sum(hit.bytes_sent for hit in nginx.settled_hits() if hit.path.startswith(f"/{NEW}/file"))


if __name__ == "__main__":
    sys.exit(main())
