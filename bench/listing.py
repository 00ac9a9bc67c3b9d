"""The time of `imgctl list` when there is a lot to list."""

from __future__ import annotations

import gzip
import hashlib
import sys
import uuid
from typing import TYPE_CHECKING, Any

from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, compared
from bench.timing import in_turn, timed
from tests.support.image_site import BASE, fixture_manifest
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Bench

_SPACE = uuid.UUID("5a1d9a0e-1f1c-4f0a-8e56-0c6a3d4c9b02")
_PEER = '`python3 -c "import argparse, msgpack"`'
_MOST = 2.2
#: Of few images nothing but the start counts: against a Python that only starts.
_FEW, _BARE, _MOST_OF_FEW = 5, "`python3 -c pass`", 2.0
#: No image comes from a server here.
NOWHERE = "http://127.0.0.1:9"


def listing(bench: Bench) -> list[Row]:
    """The whole command, against a Python that starts and imports what the command cannot do without."""
    return [
        _listed(bench, bench.scale.images, _PEER, "import argparse, msgpack", at_most=_MOST),
        _listed(bench, _FEW, _BARE, "pass", at_most=_MOST_OF_FEW),
    ]


def _listed(bench: Bench, images: int, peer: str, code: str, *, at_most: float) -> Row:
    with Ours(bench.folder(f"store-of-{images}"), config=source(NOWHERE), keep=True) as ours:
        fill(ours, bench.folder("tiny.gz"), images)
        command = [sys.executable, "-c", code]
        sides = {"imgctl list": lambda: ours.timed_imgctl("list"), peer: lambda: timed(command)}
        runs, timeout = bench.runs * bench.scale.starts, bench.scale.quiet_seconds
        taken = in_turn(f"imgctl list, {images:,} images", runs, sides, timeout=timeout)
    case = f"`imgctl list` ({images:,} images)"
    return compared(case, taken["imgctl list"], peer, taken[peer], at_most=at_most)


def fill(ours: Ours, path: Path, images: int) -> None:
    """Installs what is missing of so many images; a later run finds them there."""
    with ours.client() as client:
        there = {image["manifest"]["uuid"] for image in client.list()}
        missing = [
            manifest for manifest in map(fill_manifest, range(images)) if manifest["uuid"] not in there
        ]
        if missing:
            say(f"installing {len(missing):,} tiny images")
        for manifest in missing:
            file = gzip.compress(filesystem_stream(size=1000, seed=1), mtime=0)
            path.write_bytes(file)
            described = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}
            client.install({**manifest, "files": [described]}, path)
    path.unlink(missing_ok=True)


def fill_manifest(number: int) -> dict[str, Any]:
    """As large as those of the public images are."""
    manifest = fixture_manifest(BASE)
    return {
        **manifest,
        "uuid": str(uuid.uuid5(_SPACE, str(number))),
        "name": f"base-{number % 40}-multiarch-lts",
        "version": f"{number // 40}.{number % 40}.0",
        "published_at": f"2026-01-{number % 28 + 1:02}T00:{number % 60:02}:00.000Z",
        "description": "A 64-bit image with just essential packages installed. " * 4,
        "homepage": "https://docs.example.com/images/container-native",
        "requirements": {"networks": [{"name": "net0", "description": "public"}], "min_ram": 128},
        "tags": {"role": "os", "group": "base-multiarch-lts", "number": number},
    }
