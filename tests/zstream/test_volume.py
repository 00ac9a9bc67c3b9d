from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import StreamError
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.volume import MAX_VOLUME, Free, Volume, VolumeState, Write, micro_zap_value
from tests.support.streams import StreamWriter, real_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.zstream.fletcher4 import ByteOrder

BLOCK = b"blockful" * 1024
TO_THE_END = 2**64 - 1


def steps(stream: bytes, state: VolumeState | None = None) -> tuple[list[Write | Free], Volume]:
    reader = StreamReader()
    records = reader.records(stream)
    assert reader.begin is not None
    volume = Volume(reader.begin.byte_order, state or VolumeState())
    return [step for record in records if (step := volume.step(record)) is not None], volume


def volume_of(*records: bytes, writer: StreamWriter) -> bytes:
    return b"".join(records) + writer.volume_size(1 << 20) + writer.end()


def test_the_real_volume() -> None:
    found, volume = steps(real_stream("zvol"))
    assert volume.finish() == 25_165_824
    assert volume.state.block_size == 8192
    # 67 WRITEs, one of which is of the properties; of 9 FREEs, 2 are of the properties.
    assert sum(isinstance(step, Write) for step in found) == 66
    assert found[0] == Free(25_165_824, MAX_VOLUME)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order: ByteOrder) -> None:
    writer = StreamWriter(order)
    found, volume = steps(
        writer.begin(objset=3)
        + writer.object(1, kind=23, block_size=8192)
        + writer.write(1, 0, BLOCK, kind=23)
        + writer.free(1, 8192, 8192)
        + writer.write(1, 16384, BLOCK, kind=23)
        + writer.volume_size(1 << 30)
        + writer.end()
    )
    assert found == [Write(0, BLOCK), Free(8192, 16384), Write(16384, BLOCK)]
    assert volume.finish() == 1 << 30
    assert volume.state.cursor == volume.state.written == 24576


def test_a_clone_begins_as_its_origin() -> None:
    writer = StreamWriter()
    start = VolumeState(inherited=1 << 20, size=1 << 20, block_size=131072)
    _, volume = steps(
        writer.begin(objset=3, fromguid=9)
        + writer.object(1)
        + writer.free(1, 4096, TO_THE_END)
        + writer.end(),
        start,
    )
    assert volume.finish() == 1 << 20
    assert volume.state.inherited == 4096


Hostile = "Callable[[StreamWriter], bytes]"
HOSTILE: dict[str, tuple[Hostile, str]] = {
    "the same block twice": (lambda w: w.write(1, 0, BLOCK) + w.write(1, 0, BLOCK), "goes back to byte 0"),
    "backwards": (lambda w: w.write(1, 8192, BLOCK) + w.write(1, 0, BLOCK), "goes back to byte 0"),
    "overlapping": (lambda w: w.write(1, 0, BLOCK) + w.write(1, 4096, BLOCK), "goes back to byte 4096"),
    "frees what it wrote": (lambda w: w.write(1, 0, BLOCK) + w.free(1, 0, 512), "goes back to byte 0"),
    "frees all it wrote": (lambda w: w.write(1, 0, BLOCK) + w.free(1, 0, TO_THE_END), "goes back to byte 0"),
    "writes what it freed": (lambda w: w.free(1, 0, 8192) + w.write(1, 0, BLOCK), "goes back to byte 0"),
    "far away": (lambda w: w.write(1, 1 << 62, BLOCK), "writes at byte 4611686018427387904"),
    "at the end of all": (lambda w: w.write(1, 2**64 - 8192, BLOCK), "writes at byte"),
    "beyond its size": (
        lambda w: w.write(1, 1 << 20, BLOCK),
        "up to byte 1056768 of a volume of 1048576 bytes",
    ),
    "compressed": (lambda w: w.write(1, 0, BLOCK, compressed_from=16384), "compressed blocks"),
    "compressed properties": (lambda w: w.write(2, 0, BLOCK, compressed_from=16384), "compressed blocks"),
    "embedded": (lambda w: w.write_embedded(1, 0, 8192, b"embedded"), "compressed blocks"),
    "spill": (lambda w: w.spill(1, BLOCK), "SPILL record of object 1"),
    "another object": (lambda w: w.object(3), "OBJECT record of object 3"),
    "writes another object": (lambda w: w.write(3, 0, BLOCK), "WRITE record of object 3"),
    "packed other object": (
        lambda w: w.write(3, 0, BLOCK, compressed_from=16384),
        "WRITE record of object 3",
    ),
    "deletes its disk": (lambda w: w.freeobjects(0, 2), "deletes its own volume"),
    "deletes its properties": (lambda w: w.freeobjects(2, 1), "deletes its own volume"),
    "deletes all": (lambda w: w.freeobjects(0, 2**64 - 1), "deletes its own volume"),
    "size 0": (lambda w: w.volume_size(0), r"not possible \(0\)"),
    "odd size": (lambda w: w.volume_size(1000), r"not possible \(1000\)"),
    "huge size": (lambda w: w.volume_size(1 << 63), r"not possible \(9223372036854775808\)"),
    "no properties": (lambda w: w.write(2, 0, BLOCK), r"cannot be read"),
    "many properties": (
        lambda w: b"".join(w.write(2, 512 * n, bytes(1 << 18)) for n in range(1, 6)),
        "contains more",
    ),
    "other blocks": (lambda w: w.object(1) + w.object(1, block_size=4096), "blocks of 4096 bytes"),
}


@pytest.mark.parametrize(("records", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_refused(records: Callable[[StreamWriter], bytes], message: str) -> None:
    writer = StreamWriter()
    stream = volume_of(writer.begin(objset=3), records(writer), writer=writer)
    with pytest.raises(StreamError, match=message) as caught:
        steps(stream)[1].finish()
    assert caught.value.hint


def test_a_volume_without_a_size() -> None:
    writer = StreamWriter()
    _, volume = steps(writer.begin(objset=3) + writer.write(1, 0, BLOCK) + writer.end())
    with pytest.raises(StreamError, match="how large"):
        volume.finish()


def test_freeing_what_is_not_there() -> None:
    writer = StreamWriter()
    stream = writer.begin(objset=3) + writer.free(1, 1 << 63, 1 << 62) + writer.free(1, 2**64 - 1, TO_THE_END)
    found, _ = steps(stream)
    assert found == [Free(MAX_VOLUME, MAX_VOLUME)] * 2


@given(st.binary(max_size=300), st.sampled_from(["<", ">"]))
def test_any_zap(data: bytes, order: ByteOrder) -> None:
    head = struct.pack(f"{order}Q", (1 << 63) + 3)
    assert micro_zap_value(data, order, b"size") is None
    value = micro_zap_value(head + data, order, b"")
    assert value is None or 0 <= value < 2**64
