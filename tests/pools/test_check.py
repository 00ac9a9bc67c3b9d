"""What the embedded pool finds in the files of an image that somebody or something has changed."""

from __future__ import annotations

import os
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from imgstored.pools.embedded import EmbeddedPool, check
from imgstored.pools.embedded.notes import ImageNote
from imgstored.zstream.records import Begin, Feature, Objset, Record, RecordType
from tests.pools.contract import BASE, INCREMENTAL, ZVOL, Name, install
from tests.support.streams import StreamWriter, in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A volume and one that was cloned from it, made below.
DISK, NEXT = "33333333-aaaa-4bbb-8ccc-000000000001", "33333333-aaaa-4bbb-8ccc-000000000002"
SIZE, BLOCK = 4 << 20, 8192


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[EmbeddedPool]:
    pool = EmbeddedPool("zones", tmp_path / "pool")
    yield pool
    pool.close()


def damage(pool: EmbeddedPool, uuid: str) -> str | None:
    checked = pool.check(uuid, lambda _: None)
    assert checked.image == pool.image(uuid)
    assert checked.changed is None
    return checked.damaged


def flip(path: Path, at: int) -> None:
    """Changes one bit."""
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 4]), at)


def volume(
    blocks: dict[int, bytes], *, guid: int, fromguid: int = 0, freed: tuple[int, int] | None = None
) -> bytes:
    """The stream of a volume of 4 MiB with these blocks; what is `freed` (from, length) is zeros."""
    writer = StreamWriter(guid=guid)
    parts = [writer.begin(objset=3, fromguid=fromguid), writer.object(1, kind=23, block_size=BLOCK)]
    for offset, content in sorted(blocks.items()):
        if freed is not None and freed[0] < offset:
            parts.append(writer.free(1, *freed))
            freed = None
        parts.append(writer.write(1, offset, content, kind=23))
    if freed is not None:
        parts.append(writer.free(1, *freed))
    return b"".join(
        [*parts, writer.object(2, kind=24, block_size=512), writer.volume_size(SIZE), writer.end()]
    )


@pytest.fixture
def disks(pool: EmbeddedPool) -> EmbeddedPool:
    """A volume with two blocks, and its clone with another one, and one of the two freed."""
    chance = random.Random(5)
    base = volume({0: chance.randbytes(BLOCK), 1 << 20: chance.randbytes(BLOCK)}, guid=11)
    pool.receive(DISK, in_pieces(base, 10_000))
    pool.publish(DISK)
    clone = volume({2 << 20: chance.randbytes(BLOCK)}, guid=12, fromguid=11, freed=(1 << 20, BLOCK))
    pool.receive(NEXT, in_pieces(clone, 10_000), origin=DISK)
    pool.publish(NEXT)
    return pool


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.9999])
def test_a_bit_of_a_stream(pool: EmbeddedPool, tmp_path: Path, part: float) -> None:
    install(pool, "base")
    assert damage(pool, BASE) is None
    path = tmp_path / "pool" / BASE / "stream.zfs"
    flip(path, int(part * path.stat().st_size))
    assert damage(pool, BASE) is not None


@pytest.mark.parametrize("at", [0, BLOCK - 1, 1 << 20, 100_000, 2 << 20, SIZE - 1])
@pytest.mark.parametrize("uuid", [DISK, NEXT])
def test_a_bit_of_a_disk_wherever_it_is(disks: EmbeddedPool, tmp_path: Path, uuid: str, at: int) -> None:
    assert damage(disks, DISK) is None
    assert damage(disks, NEXT) is None
    flip(tmp_path / "pool" / uuid / "disk.raw", at)
    assert damage(disks, uuid) is not None
    # Where a clone has its own, its origin's disk does not count.
    others = {DISK: {NEXT: at < 1 << 20 or at >= SIZE - 1}, NEXT: {DISK: False}}[uuid]
    for other, is_damaged in others.items():
        if at not in (1 << 20, 2 << 20):
            assert (damage(disks, other) is not None) == is_damaged


def test_a_real_volume(pool: EmbeddedPool, tmp_path: Path) -> None:
    install(pool, "zvol")
    assert damage(pool, ZVOL) is None
    flip(tmp_path / "pool" / ZVOL / "skeleton.zfs", 700)
    assert damage(pool, ZVOL) is not None


def test_very_many_freed_ranges_are_not_kept(tmp_path: Path) -> None:
    """Each took 231 bytes: 220 MiB for a file of 4.3 MiB."""
    path = tmp_path / "disk"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    origin = ImageNote(DISK, 11, None, 0, "volume", 1, volume_size=SIZE, block_size=BLOCK)
    note = ImageNote(NEXT, 12, DISK, 11, "volume", 1, volume_size=SIZE, block_size=BLOCK)
    begin = Begin("<", Feature(0), Objset.VOLUME, 12, 11, "")
    with path.open("rb") as file:
        disk = check._Disk(begin, note, origin, [file.fileno(), file.fileno()])
        tracemalloc.start()
        try:
            for at in range(10_000):
                # What is between two of them is as in the origin, so that they cannot be joined.
                disk.step(Record(RecordType.FREE, b"", b"", 1, 64 * at, 32), lambda: None)
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        disk.finish(lambda: None)
    assert used < 100_000


def test_a_flipped_bit_between_very_many_freed_ranges(disks: EmbeddedPool, tmp_path: Path) -> None:
    writer = StreamWriter(guid=13)
    begin = [writer.begin(objset=3, fromguid=11), writer.object(1, kind=23, block_size=BLOCK)]
    freed = [writer.free(1, 1024 * at, 512) for at in range(2000)]
    end = [writer.object(2, kind=24, block_size=512), writer.volume_size(SIZE), writer.end()]
    other = "33333333-aaaa-4bbb-8ccc-000000000003"
    disks.receive(other, in_pieces(b"".join([*begin, *freed, *end]), 1 << 20), origin=DISK)
    disks.publish(other)
    path = tmp_path / "pool" / other / "disk.raw"
    for at, why in ((5, "was changed"), (600, "differs from its origin's"), (1_048_576 + 700, "differs")):
        flip(path, at)
        assert why in str(damage(disks, other))
        flip(path, at)
        assert damage(disks, other) is None


@pytest.mark.parametrize(("name", "uuid", "file"), [("base", BASE, "stream.zfs"), ("zvol", ZVOL, "disk.raw")])
@pytest.mark.parametrize("how", ["gone", "short", "link", "other"])
def test_a_file(pool: EmbeddedPool, tmp_path: Path, name: Name, uuid: str, file: str, how: str) -> None:
    install(pool, name)
    install(pool, "incremental" if name == "base" else "base")
    path = tmp_path / "pool" / uuid / file
    change: dict[str, Callable[[], object]] = {
        "gone": path.unlink,
        "short": lambda: os.truncate(path, path.stat().st_size - 1),
        "link": lambda: (path.unlink(), path.symlink_to("/etc/passwd")),
        "other": lambda: path.write_bytes(
            (tmp_path / "pool" / (INCREMENTAL if name == "base" else BASE) / "stream.zfs").read_bytes()
        ),
    }
    change[how]()
    found = damage(pool, uuid)
    assert found
    assert str(tmp_path) not in found


def test_a_folder_that_is_gone(pool: EmbeddedPool, tmp_path: Path) -> None:
    install(pool, "base")
    (tmp_path / "pool" / BASE).rename(tmp_path / "elsewhere")
    assert damage(pool, BASE) == "its files cannot be read: No such file or directory"
