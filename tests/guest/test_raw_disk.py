"""Real ZFS takes the streams that are made of raw disks, and its devices are these disks."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from imgstored.pools.zfs import ZfsPool
from imgstored.zstream.disk import open_disk
from imgstored.zstream.write import NewVolume, padded, volume_stream
from tests.guest.zpool import Zpool, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANCE = random.Random(8)
MIB = 1 << 20
GUID, CREATED = 77, 1_700_000_000
#: The size of a disk, and the data on it by where they begin.
DISKS: dict[str, tuple[int, dict[int, bytes]]] = {
    "holes": (
        24 * MIB,
        {0: CHANCE.randbytes(600_000), 9 * MIB + 512: b"alone", 17 * MIB: CHANCE.randbytes(2 * MIB)},
    ),
    "full": (3 * MIB, {0: CHANCE.randbytes(3 * MIB)}),
    "odd": (5 * MIB + 1, {MIB: CHANCE.randbytes(300_000), 5 * MIB: b"!"}),
    "zeros": (64 * MIB, {}),
    "written zeros": (4 * MIB, {MIB: bytes(2 * MIB), 3 * MIB: b"x" * 4096}),
    "one byte": (1, {0: b"x"}),
    "far": (1 << 36, {(1 << 36) - 4096: b"the end"}),
    "large": (300 * MIB, {20 * MIB: CHANCE.randbytes(MIB) * 130, 200 * MIB: CHANCE.randbytes(80 * MIB)}),
}
#: Too large to be read as a whole: of it, the end is.
UNREAD = "far"


@pytest.fixture(scope="module")
def pool() -> Iterator[Zpool]:
    with Zpool("rawdisks", "3G") as made:
        yield made


@pytest.fixture(autouse=True)
def emptied(pool: Zpool) -> Iterator[None]:
    yield
    pool.empty()


def made(folder: Path, name: str) -> Path:
    size, parts = DISKS[name]
    path = folder / "disk"
    with path.open("wb") as file:
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path


def written(disk: Path, block_size: int) -> Path:
    """The file with the disk's stream."""
    path = disk.with_suffix(".zfs")
    with open_disk(disk) as opened, path.open("wb") as file:
        size = padded(opened.size, block_size)
        volume = NewVolume("elsewhere/disk@final", size, GUID, CREATED, block_size)
        for piece in volume_stream(volume, opened.extents(block_size)):
            file.write(piece)
    return path


def received(pool: Zpool, name: str, stream: Path, *options: str) -> None:
    with stream.open("rb") as file:
        run("zfs", "receive", *options, f"{pool.name}/{name}", stdin=file)


def received_incremental(pool: Zpool, name: str, old: str, new: str) -> None:
    sent = subprocess.run(["zfs", "send", "-i", old, new], capture_output=True, check=True).stdout
    subprocess.run(["zfs", "receive", "-F", f"{pool.name}/{name}"], input=sent, check=True)


def digest(path: Path, more: int = 0) -> str:
    """SHA-256 of a file or device, and of some zeros after it."""
    sum_ = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            sum_.update(piece)
    sum_.update(bytes(more))
    return sum_.hexdigest()


def assert_same(pool: Zpool, name: str, disk: Path, block_size: int) -> None:
    size = disk.stat().st_size
    more = -size % block_size
    assert pool.get(name, "volsize,volblocksize") == [str(size + more), str(block_size)]
    assert pool.guid(name) == GUID
    if disk.stat().st_size == DISKS[UNREAD][0]:
        with pool.device(name).open("rb") as device, disk.open("rb") as file:
            for offset in (0, size // 2, size - MIB):
                device.seek(offset)
                file.seek(offset)
                assert device.read(MIB) == file.read(MIB)
    else:
        assert digest(pool.device(name)) == digest(disk, more)


@pytest.mark.parametrize(
    ("name", "block_size"),
    [
        *(("holes", size) for size in (4096, 16384, 131072)),
        *((name, 8192) for name in DISKS),
        ("odd", 131072),
        ("far", 131072),
    ],
)
def test_the_device_is_the_disk(pool: Zpool, tmp_path: Path, name: str, block_size: int) -> None:
    """Received by the program `zfs`, and as imgstored does."""
    disk = made(tmp_path, name)
    stream = written(disk, block_size)
    received(pool, "plain", stream)
    assert pool.get("plain@final", "creation") == [str(CREATED)]
    assert_same(pool, "plain", disk, block_size)
    image, store = str(uuid.UUID(int=CHANCE.getrandbits(128), version=4)), ZfsPool(pool.name)
    with stream.open("rb") as file:
        store.receive(image, iter(lambda: file.read(MIB), b""))
    published = store.publish(image)
    assert (published.guid, published.kind) == (GUID, "volume")
    assert_same(pool, image, disk, block_size)


def test_the_command_and_a_device(pool: Zpool, tmp_path: Path) -> None:
    """A device does not tell where its holes are."""
    disk = made(tmp_path, "holes")
    received(pool, "first", written(disk, 8192))
    device, stream = pool.device("first"), tmp_path / "device.zfs"
    command = [sys.executable, "-m", "imgstored.zstream", "write", "--name", "elsewhere/disk@final"]
    with stream.open("wb") as file:
        subprocess.run([*command, "--guid", str(GUID), str(device)], stdout=file, check=True)
    assert stream.stat().st_size < 4 * MIB
    received(pool, "second", stream)
    assert_same(pool, "second", disk, 8192)


def test_what_is_sent_of_it(pool: Zpool, tmp_path: Path) -> None:
    """A ZFS that has the volume sends it, and what was changed since, to one that has ours, too."""
    disk = made(tmp_path, "holes")
    stream = written(disk, 8192)
    for name in ("first", "second"):
        received(pool, name, stream, "-o", "compression=lz4")
    with pool.device("first").open("r+b") as device:
        device.seek(5 * MIB)
        device.write(b"changed " * 10_000)
        device.seek(17 * MIB)
        device.write(bytes(MIB))
    run("zfs", "snapshot", f"{pool.name}/first@changed")
    received_incremental(pool, "second", f"{pool.name}/first@final", f"{pool.name}/first@changed")
    assert digest(pool.device("second")) == digest(pool.device("first")) != digest(disk)
    whole = subprocess.run(
        ["zfs", "send", f"{pool.name}/first@final"], capture_output=True, check=True
    ).stdout
    subprocess.run(["zfs", "receive", f"{pool.name}/third"], input=whole, check=True)
    assert_same(pool, "third", disk, 8192)


def test_a_clone_is_a_disk_to_write_to(pool: Zpool, tmp_path: Path) -> None:
    """As is the volume itself, which can also be made larger: its properties are sound, too."""
    disk = made(tmp_path, "odd")
    received(pool, "image", written(disk, 16384))
    run("zfs", "clone", f"{pool.name}/image@final", f"{pool.name}/clone")
    for name in ("clone", "image"):
        with pool.device(name).open("r+b") as device:
            device.write(b"mine")
        with pool.device(name).open("rb") as device:
            assert device.read(4) == b"mine"
            device.seek(MIB)
            assert device.read(300_000) == DISKS["odd"][1][MIB]
        run("zfs", "set", "volsize=32M", f"{pool.name}/{name}")
        assert pool.get(name, "volsize") == [str(32 * MIB)]
    run("zfs", "clone", f"{pool.name}/image@final", f"{pool.name}/again")
    assert_same_start(pool.device("again"), disk)


def assert_same_start(device: Path, disk: Path) -> None:
    with device.open("rb") as file:
        assert file.read(disk.stat().st_size) == disk.read_bytes()


def test_the_pool_is_sound_afterwards(pool: Zpool, tmp_path: Path) -> None:
    """Each block is read and its checksum verified; and zdb walks the volume's objects."""
    received(pool, "image", written(made(tmp_path, "holes"), 8192))
    run("zpool", "scrub", "-w", pool.name)
    assert "errors: No known data errors" in run("zpool", "status", "-v", pool.name).stdout
    pool.reimport()
    objects = run("zdb", "-dddd", f"{pool.name}/image", "1", "2").stdout
    assert "zvol object" in objects
    assert "zvol prop" in objects
    assert f"size = {24 * MIB}" in objects
