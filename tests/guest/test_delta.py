"""Deltas between images of which real ZFS made the streams, and which real ZFS receives."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.guest.host import ORIGIN, POOL, Host, zfs_host
from tests.guest.zpool import Zpool, run
from tests.support.deltas import NEW, OLD, files, indexed, publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MIB = 1 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        with host.daemon.config_file.open("a") as config:
            config.write('deltas = "always"\n')
        host.daemon.start()
        yield host


def sent(snapshot: str) -> bytes:
    return subprocess.run(["zfs", "send", snapshot], capture_output=True, check=True).stdout


def filesystems(pool: Zpool, record_size: str) -> tuple[bytes, bytes]:
    """Two snapshots of one tree, between which every eighth file was replaced, as a package manager does."""
    run("zfs", "create", "-o", f"recordsize={record_size}", f"{ORIGIN}/tree")
    folder = pool.mountpoint("tree")
    contents = [*files(240), *files(6, seed=7, largest=600_000)]
    for number, content in enumerate(contents):
        path = folder / f"{number % 9}" / f"file-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    run("zfs", "snapshot", f"{ORIGIN}/tree@final")
    for number in range(0, len(contents), 8):
        path = folder / f"{number % 9}" / f"file-{number}"
        (path.parent / "new").write_bytes(files(1, seed=1000 + number)[0])
        (path.parent / "new").rename(path)
    run("zfs", "snapshot", f"{ORIGIN}/tree@next")
    return sent(f"{ORIGIN}/tree@final"), sent(f"{ORIGIN}/tree@next")


def volumes(pool: Zpool, block_size: str) -> tuple[bytes, bytes]:
    """Two snapshots of one volume, between which some of it was written to."""
    run("zfs", "create", "-V", "12M", "-b", block_size, f"{ORIGIN}/disk")
    device, chance = pool.device("disk"), random.Random(3)
    write(device, {0: chance.randbytes(6 * _MIB)})
    run("zfs", "snapshot", f"{ORIGIN}/disk@final")
    places = [chance.randrange(0, 10 * _MIB, 4096) for _ in range(8)]
    write(device, {place: chance.randbytes(32 << 10) for place in places})
    run("zfs", "snapshot", f"{ORIGIN}/disk@next")
    return sent(f"{ORIGIN}/disk@final"), sent(f"{ORIGIN}/disk@next")


def write(device: Path, pieces: dict[int, bytes]) -> None:
    with device.open("r+b") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("size", ["8K", "128K"])
@pytest.mark.parametrize("make", [filesystems, volumes])
def test_what_a_delta_brings_is_what_a_whole_file_brings(host: Host, make, size) -> None:
    host.clear()
    with Zpool(ORIGIN, "512M") as pool:
        streams = dict(zip((OLD, NEW), make(pool, size), strict=True))
    type_ = "zvol" if make is volumes else "zone-dataset"
    # Each run has an image of another name, so that no other is its basis.
    name = f"{type_}-{size}"
    for manifest in list(host.served.pages.manifests):
        if manifest["uuid"] in streams:
            host.served.pages.manifests.remove(manifest)
    made = {uuid: indexed(stream) for uuid, stream in streams.items()}
    for uuid, each in made.items():
        publish(host.served.pages, each, uuid, type=type_, name=name)
    run_ctl(host, "avail")
    run_ctl(host, "import", OLD)
    before = host.served.bytes_sent_of(NEW)
    run_ctl(host, "import", NEW)
    fetched = host.served.bytes_sent_of(NEW) - before
    by_delta = sent(f"{POOL}/{NEW}@final")
    # Without the older one there is no basis.
    run_ctl(host, "delete", NEW)
    run_ctl(host, "delete", OLD)
    run_ctl(host, "import", NEW)
    whole = host.served.bytes_sent_of(NEW) - before - fetched
    assert whole == len(made[NEW].file)
    assert hashlib.sha256(by_delta).hexdigest() == hashlib.sha256(sent(f"{POOL}/{NEW}@final")).hexdigest()
    print(f"{name}: fetched {fetched} of {whole} bytes, and an index of {len(made[NEW].index)}")
    assert fetched < 0.4 * whole


def run_ctl(host: Host, *arguments: str) -> None:
    try:
        done = host.daemon.imgctl(*arguments, timeout=100)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(host.daemon.log.read_text()[-4000:]) from error
    assert done.returncode == 0, done.stderr
