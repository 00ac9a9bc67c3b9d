"""The image of the ZFS cases: real ZFS makes its stream, once; it is kept in the work folder."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.inputs import Input
from bench.progress import say
from tests.guest.zpool import Zpool, run
from tests.support.image_site import ImageSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SPACE = uuid.UUID("0f0f3c1e-2c55-4d0b-9a0e-3f4c8b9f2a41")
_MIB = 1 << 20
_BLOCK = 1 << 20
#: One file in so many is of random bytes, so that gzip leaves about half of the whole.
_RANDOM_IN = 3
_WORDS = 4000


@dataclass(frozen=True, slots=True)
class ZfsInput(Input):
    """An image file and its manifest, and how long its stream is."""

    stream_size: int  #: bytes


def zfs_image(keep: Path, site: Path, mib: int) -> ZfsInput:
    """An image with files of that many MiB, in `site` for a server; `keep` has it for the next time."""
    name = str(uuid.uuid5(_SPACE, f"{mib}"))
    folder = keep / name
    described = folder / "manifest.json"
    if not described.exists():
        folder.mkdir(exist_ok=True)
        stream_size = _make(folder / "file", mib)
        described.write_text(json.dumps([_manifest(name, folder / "file"), stream_size]))
    manifest, stream_size = json.loads(described.read_text())
    # The kept one is on the host, and slow to read from here.
    ImageSite(site).add(manifest, folder / "file")
    return ZfsInput(manifest, site / name / "file", stream_size)


def _make(path: Path, mib: int) -> int:
    """Writes the compressed stream; returns how long it was before that."""
    say(f"making an image of {mib} MiB, by zfs send and gzip -6")
    size = 0
    with Zpool("scratch", f"{2 * mib + 128}M") as pool:
        run("zfs", "create", "scratch/made")
        for number, block in enumerate(_content(mib)):
            (pool.mountpoint("made") / f"{number:04}").write_bytes(block)
        run("zfs", "snapshot", "scratch/made@final")
        with (
            path.open("wb") as file,
            subprocess.Popen(["zfs", "send", "scratch/made@final"], stdout=subprocess.PIPE) as sender,
            subprocess.Popen(["gzip", "-6", "-n"], stdin=subprocess.PIPE, stdout=file) as gzip,
        ):
            assert sender.stdout is not None
            assert gzip.stdin is not None
            while piece := sender.stdout.read(_BLOCK):
                size += len(piece)
                gzip.stdin.write(piece)
            gzip.stdin.close()
            if sender.wait() or gzip.wait():
                raise RuntimeError("the image cannot be made: zfs send or gzip failed")
    shutil.rmtree(pool.mountpoint(), ignore_errors=True)
    return size


def _content(mib: int) -> Iterator[bytes]:
    """Blocks of 1 MiB: random bytes, and text, which gzip sees 32 KiB of at a time."""
    chance = random.Random(20261124)
    words = [chance.randbytes(chance.randint(1, 5)).hex() for _ in range(_WORDS)]
    text = " ".join(chance.choices(words, k=8 * _MIB // 7)).encode()
    for number in range(mib):
        if number % _RANDOM_IN == 0:
            yield chance.randbytes(_MIB)
        else:
            start = chance.randrange(len(text) - _MIB)
            yield text[start : start + _MIB]


def _manifest(name: str, file: Path) -> dict[str, Any]:
    with file.open("rb") as written:
        sha1 = hashlib.file_digest(written, "sha1").hexdigest()
    return {
        "v": 2,
        "uuid": name,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": "bench-zfs",
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2026-11-24T00:00:00.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"size": file.stat().st_size, "sha1": sha1, "compression": "gzip"}],
    }
