"""`python -m bench.deltas OLD NEW`: how much of an image is fetched where an older one is installed.

OLD and NEW are plain send streams. NEW becomes a file with an index, on a static site behind nginx. A real
daemon, which has OLD installed in an embedded pool, imports it. The bytes are those of the log of nginx. What
it has then must be NEW, record for record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
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
_CONFIG = '[[sources]]\nurl = "{url}"\ntype = "static"\n[limits]\ndeltas = "always"\n'


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
        file, index = _publish(site, arguments.new, arguments.type)
        with (
            Nginx(folder / "nginx", root=site.folder) as nginx,
            Daemon(folder / "host", config=_CONFIG.format(url=nginx.url), timeout=300) as daemon,
        ):
            _install(daemon, arguments.old, arguments.type)
            began = time.monotonic()
            daemon.imgctl("import", NEW, check=True, timeout=3600)
            took = time.monotonic() - began
            hits = [hit for hit in nginx.settled_hits() if hit.path.startswith(f"/{NEW}/file")]
            out = folder / "out"
            daemon.imgctl("export", NEW, "-o", str(out), check=True, timeout=3600)
            (written,) = folder.glob("out.z*")
            if _sha256(written) != _sha256(arguments.new):
                print("the image is not the stream that was published", file=sys.stderr)
                return 1
    fetched = sum(hit.bytes_sent for hit in hits)
    print(
        f"{arguments.new.name}: stream {arguments.new.stat().st_size / 1e6:.1f} MB, file {file / 1e6:.1f} MB,"
        f" index {index / 1e6:.2f} MB; nginx sent {fetched / 1e6:.1f} MB ({100 * fetched / file:.1f} %)"
        f" in {len(hits)} requests; {took:.1f} s"
    )
    return 0


def _publish(site: ImageSite, stream: Path, type_: str) -> tuple[int, int]:
    """Puts the image on the site; the sizes of its file and of its index."""
    builder = IndexBuilder()
    with stream.open("rb") as source:
        file = b"".join(compressed_with_index(_pieces(source), builder))
    made = Indexed(file, builder.finish())
    site.add(manifest_of(made, NEW, type=type_), made.file)
    (site.folder / NEW / "file.index").write_bytes(made.index)
    return len(made.file), len(made.index)


def _install(daemon: Daemon, stream: Path, type_: str) -> None:
    """Installs the older image, of the same name."""
    with stream.open("rb") as source:
        sha1 = hashlib.file_digest(source, "sha1").hexdigest()
    manifest = manifest_of(Indexed(b"", b""), OLD, type=type_)
    manifest["files"] = [{"sha1": sha1, "size": stream.stat().st_size, "compression": "none"}]
    path = daemon.folder / "old.imgmanifest"
    path.write_text(json.dumps(manifest))
    daemon.imgctl("install", "-m", str(path), "-f", str(stream), check=True, timeout=3600)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
