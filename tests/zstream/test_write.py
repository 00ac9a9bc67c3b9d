from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import UsageError
from imgstored.pools.embedded import EmbeddedPool
from imgstored.zstream import fletcher4
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import Begin, Feature, Objset, Record, RecordType
from imgstored.zstream.volume import Free, Volume, VolumeState, Write
from imgstored.zstream.write import NewVolume, padded, volume_stream
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

UUID = "44444444-aaaa-4bbb-8ccc-000000000001"
KIB = 1 << 10
TO_THE_END = (1 << 64) - 1
CHANCE = random.Random(4)
#: What a block may begin with, before zeros to its end.
STARTS = [b"", b"\0" * 4095 + b"x", b"short", CHANCE.randbytes(4096)]


def new_volume(size: int = 1 << 20, block_size: int = 8 * KIB, **fields: int) -> NewVolume:
    return NewVolume("zones/disk@final", size, fields.get("guid", 5), fields.get("created", 7), block_size)


def stream_of(disk: bytes, block_size: int = 8 * KIB, step: int = 1 << 20) -> bytes:
    """The stream of a disk that is read from its start to its end."""
    volume = new_volume(padded(len(disk), block_size), block_size)
    extents = ((start, disk[start : start + step]) for start in range(0, len(disk), step))
    return b"".join(volume_stream(volume, extents))


def records_of(pieces: Iterable[bytes]) -> tuple[Begin, list[Record]]:
    """The records, each of which the reader has verified."""
    reader = StreamReader()
    records = [record for piece in pieces for record in reader.records(piece)]
    reader.finish()
    assert reader.begin is not None
    return reader.begin, records


def disk_of(stream: bytes) -> bytes:
    """What a pool that has no ZFS makes of the stream."""
    begin, records = records_of([stream])
    volume = Volume(begin.byte_order, VolumeState())
    steps = [step for record in records if (step := volume.step(record)) is not None]
    disk = bytearray(volume.finish())
    for step in steps:
        match step:
            case Write(offset, payload):
                disk[offset : offset + len(payload)] = payload
            case Free(offset, end):
                assert not any(disk[offset:end])
    return bytes(disk)


def shape(records: Iterable[Record]) -> list[tuple[RecordType, int, int, int]]:
    return [(record.type, record.object, record.offset, record.length) for record in records]


def test_what_zfs_sends_of_the_same_disk() -> None:
    """Record by record, but for what a ZFS only knows because it had it on disk."""
    disk = disk_of(real_stream("zvol"))
    theirs, real = records_of([real_stream("zvol")])
    ours, made = records_of([stream_of(disk)])
    assert ours.objset == theirs.objset == Objset.VOLUME
    assert (ours.features, ours.fromguid) == (theirs.features, theirs.fromguid) == (Feature(0), 0)
    # It has freed what its property block could have held, had it been larger.
    freed = (RecordType.FREE, 2, 512, 1024)
    assert shape(made) == [each for each in shape(real) if each != freed]
    for our, their in zip(made, [each for each in real if shape([each]) != [freed]], strict=True):
        if our.type == RecordType.OBJECT:
            assert bytes(our.header[:40]) == bytes(their.header[:40])
        if our.object == 1:
            assert bytes(our.payload) == bytes(their.payload)
        if our.object == 2 and our.type == RecordType.WRITE:
            # Between is the salt, which is any number.
            assert bytes(our.payload[:8]) == bytes(their.payload[:8])
            assert bytes(our.payload[16:]) == bytes(their.payload[16:])


def test_what_begin_says() -> None:
    volume = NewVolume("zones/a-b_c.d:e/f@final", 8192, 2**64 - 1, 1_700_000_000)
    begin, records = records_of(volume_stream(volume, []))
    assert begin == Begin("<", Feature(0), Objset.VOLUME, 2**64 - 1, 0, "zones/a-b_c.d:e/f@final")
    assert int.from_bytes(records[0].header[24:32], "little") == 1_700_000_000


def test_an_empty_disk() -> None:
    _, records = records_of(volume_stream(new_volume(1 << 40, 128 * KIB), []))
    assert shape(records) == [
        (RecordType.BEGIN, 0, 0, 0),
        (RecordType.OBJECT, 1, 0, 0),
        (RecordType.FREE, 1, 1 << 40, TO_THE_END),
        (RecordType.FREE, 1, 0, 1 << 40),
        (RecordType.OBJECT, 2, 0, 0),
        (RecordType.FREE, 2, 512, TO_THE_END),
        (RecordType.WRITE, 2, 0, 512),
        (RecordType.FREEOBJECTS, 3, 0, 29),
        (RecordType.END, 0, 0, 0),
    ]


@pytest.mark.parametrize("block_size", [4 * KIB << n for n in range(6)])
def test_blocks_of_zeros_are_left_out(block_size: int) -> None:
    disk = bytes(3 * block_size) + b"data" + bytes(4 * block_size) + b"more" + bytes(block_size)
    _, records = records_of([stream_of(disk, block_size)])
    assert [each for each in shape(records) if each[1] == 1 and each[0] != RecordType.OBJECT] == [
        (RecordType.FREE, 1, 9 * block_size, TO_THE_END),
        (RecordType.FREE, 1, 0, 3 * block_size),
        (RecordType.WRITE, 1, 3 * block_size, block_size),
        (RecordType.FREE, 1, 4 * block_size, 3 * block_size),
        (RecordType.WRITE, 1, 7 * block_size, block_size),
        (RecordType.FREE, 1, 8 * block_size, block_size),
    ]


# What the disk is: blocks by their starts, and how many bytes more there are at the end.
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STARTS)), max_size=20),
    st.integers(0, 4095),
    st.sampled_from([4 * KIB, 8 * KIB, 128 * KIB]),
    st.integers(1, 9),
)
def test_any_disk(blocks: list[tuple[int, bytes]], more: int, block_size: int, step: int) -> None:
    disk = b"".join(bytes(gap * 4096) + start.ljust(4096, b"\0") for gap, start in blocks) + b"y" * more
    if disk:
        stream = stream_of(disk, block_size, step * block_size)
        assert disk_of(stream) == disk.ljust(padded(len(disk), block_size), b"\0")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=20_000)), max_size=8),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_any_extents(parts: list[tuple[int, bytes]], kind: type) -> None:
    """With gaps or without, of any type; one that is no whole blocks is filled up with zeros."""
    extents, disk = [], b""
    for gap, data in parts:
        disk += bytes(-len(disk) % 4096 + gap * 4096)
        extents.append((len(disk), kind(data)))
        disk += data
    disk += bytes(-len(disk) % 4096 + 4096)
    assert disk_of(b"".join(volume_stream(new_volume(len(disk), 4096), extents))) == disk


def test_pieces_and_memory() -> None:
    """Large enough for a pipe, and no more than some batch however many there are."""
    data = CHANCE.randbytes(1 << 20)
    volume = new_volume(32 << 20, 8 * KIB)
    sizes = [len(piece) for piece in volume_stream(volume, ((n << 20, data) for n in range(32)))]
    assert all(256 * KIB <= size <= 300 * KIB for size in sizes[:-1])
    assert sum(sizes) > 32 << 20


def test_without_numpy_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = CHANCE.randbytes(100_000) + bytes(100_000) + CHANCE.randbytes(300_000)
    expected = stream_of(disk)
    monkeypatch.setattr(fletcher4, "load_arithmetic", fletcher4.Plain)
    assert stream_of(disk) == expected


def test_the_pool_that_needs_no_zfs(tmp_path: Path) -> None:
    disk = CHANCE.randbytes(1_000_000) + bytes(3_000_000) + CHANCE.randbytes(200_001)
    stream = stream_of(disk)
    pool = EmbeddedPool("tank", tmp_path / "pool")
    pool.receive(UUID, [stream])
    image = pool.publish(UUID)
    assert (image.guid, image.kind, image.referenced) == (5, "volume", padded(len(disk), 8192))
    assert (tmp_path / "pool" / UUID / "disk.raw").read_bytes() == disk.ljust(image.referenced, b"\0")
    assert b"".join(pool.send(UUID)) == stream
    pool.close()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "zones/disk", "not the name of a snapshot"),
        ("name", "zones/disk@", "not the name"),
        ("name", "@final", "not the name"),
        ("name", "/zones@final", "not the name"),
        ("name", "zones/disk@a@b", "not the name"),
        ("name", "zones/disk@final\n", "not the name"),
        ("name", "z" * 250 + "@final", "not the name"),
        ("size", 0, "volume of 0 bytes"),
        ("size", 8192 + 4096, "volume of 12288 bytes, in blocks of 8192"),
        ("size", (16 << 40) + 8192, "not possible"),
        ("block_size", 0, "blocks of 0 bytes"),
        ("block_size", 2048, "blocks of 2048 bytes"),
        ("block_size", 12288, "blocks of 12288 bytes"),
        ("block_size", 256 * KIB, "blocks of 262144 bytes"),
        ("block_size", -8192, "blocks of -8192 bytes"),
        ("guid", 0, "the guid 0"),
        ("guid", 1 << 64, "the guid 18446744073709551616"),
        ("created", -1, "made at -1"),
    ],
)
def test_no_volume(field: str, value: str | int, message: str) -> None:
    fields = {"name": "zones/disk@final", "size": 1 << 20, "guid": 5, "created": 7, field: value}
    with pytest.raises(UsageError, match=message) as caught:
        NewVolume(**fields)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize(
    "extents",
    [
        [(4096, b"x")],
        [(0, bytes(8193)), (8192, b"x")],
        [(8192, b"x"), (0, b"x")],
        [(1 << 20, b"x")],
        [((1 << 20) - 8192, bytes(8193))],
    ],
)
def test_extents_out_of_place(extents: list[tuple[int, bytes]]) -> None:
    with pytest.raises(ValueError, match="out of place"):
        list(volume_stream(new_volume(), extents))
