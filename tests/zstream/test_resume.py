from __future__ import annotations

import functools
import itertools
import random
import struct
import tracemalloc
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from imgstored.errors import ResumeError, StreamError
from imgstored.zstream import fletcher4
from imgstored.zstream.nvlist import unpack
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE, Feature, Record, RecordType
from imgstored.zstream.resume import Resumer, resume
from imgstored.zstream.token import ResumePoint, parse_token
from tests.support.streams import (
    StreamWriter,
    filesystem_stream,
    in_pieces,
    random_content,
    real_stream,
    stream_of,
)
from tests.support.tokens import token_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.zstream.fletcher4 import Buffer, ByteOrder

Name = Literal["base", "incremental", "zvol", "small", "large", "big-endian", "old"]
NAMES: tuple[Name, ...] = ("base", "incremental", "zvol", "small", "large", "big-endian", "old")
WRITES = (RecordType.WRITE, RecordType.WRITE_EMBEDDED)
END_OF_OBJECT = 2**64 - 1


def made_stream(order: ByteOrder = "<", *, checksums: bool = True, seed: int = 1) -> bytes:
    """Objects with every kind of record: small, sparse, compressed and embedded ones, with spill blocks."""
    writer = StreamWriter(order, checksums=checksums, guid=5)
    chance = random.Random(seed)
    parts = [writer.begin(features=4 | 1 << 16 | 1 << 17 | 1 << 22), writer.freeobjects(0, 1)]
    number = 1
    for _ in range(12):
        parts.append(writer.object(number, block_size=4096, bonus=chance.randbytes(44)))
        blocks = chance.randrange(6)
        parts.append(writer.free(number, blocks * 4096, END_OF_OBJECT))
        for offset in range(0, blocks * 4096, 4096):
            match chance.randrange(4):
                case 0:
                    parts.append(writer.free(number, offset, 4096))
                case 1:
                    parts.append(writer.write(number, offset, chance.randbytes(512), compressed_from=4096))
                case 2:
                    parts.append(writer.write_embedded(number, offset, 4096, chance.randbytes(90)))
                case _:
                    parts.append(writer.write(number, offset, chance.randbytes(4096)))
        if chance.random() < 0.3:
            parts.append(writer.spill(number, chance.randbytes(512)))
        gap = chance.randrange(3)
        if gap:
            parts.append(writer.freeobjects(number + 1, gap))
        number += 1 + gap
    return b"".join([*parts, writer.freeobjects(number, 2**40), writer.end()])


def large_blocks() -> bytes:
    writer = StreamWriter(guid=6)
    parts = [writer.begin(features=4 | 1 << 19), writer.object(1, block_size=1 << 20)]
    blocks = itertools.pairwise(range(0, (5 << 20) + 1, 1 << 20))
    content = b"".join(random_content(5 << 20, 1))
    parts += [writer.write(1, start, content[start:end]) for start, end in blocks]
    return b"".join([*parts, writer.end()])


@functools.cache
def stream(name: Name) -> bytes:
    match name:
        case "small":
            return made_stream()
        case "large":
            return large_blocks()
        case "big-endian":
            return made_stream(">", seed=2)
        case "old":
            return made_stream(checksums=False, seed=3)
        case _:
            return real_stream(name)


@functools.cache
def whole(name: Name) -> list[Record]:
    return read([stream(name)])


def read(pieces: Iterable[Buffer], *, resuming: bool = False) -> list[Record]:
    """The records of a stream, all of whose checksums hold."""
    reader = StreamReader(resuming=resuming)
    records = [
        record._replace(header=bytes(record.header), payload=bytes(record.payload))
        for piece in pieces
        for record in reader.records(piece)
    ]
    reader.finish()
    return records


@functools.cache
def begin_of(name: Name) -> tuple[int, int, Feature, ByteOrder]:
    reader = StreamReader()
    reader.check(stream(name)[:312])
    begin = reader.begin
    assert begin is not None
    return begin.toguid, begin.fromguid, begin.features, begin.byte_order


def point_of(name: Name, number: int, offset: int) -> ResumePoint:
    """By way of a token, as a little-endian host's kernel would write it."""
    toguid, fromguid, features, _ = begin_of(name)
    flags = {"largeblockok": 1 << 19, "embedok": 1 << 16, "compressok": 1 << 22}
    set_flags = tuple(flag for flag, bit in flags.items() if features & bit)
    text = token_of(object=number, offset=offset, toguid=toguid, fromguid=fromguid, flags=set_flags)
    return parse_token(text).point


def content(record: Record) -> tuple[bytes, bytes]:
    """All of a record but its checksums."""
    header = bytes(record.header[:CHECKED_SIZE])
    return header[:8] if record.type == RecordType.END else header, bytes(record.payload)


# -- what comes out ------------------------------------------------------------------------------------------


def writes_of(name: Name) -> list[int]:
    """Where in the list of records the data are."""
    return [place for place, record in enumerate(whole(name)) if record.type in WRITES]


CUTS = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(writes_of(name))))
PIECES = st.sampled_from([313, 4093, 131_072, 1 << 20, 8 << 20])


@settings(max_examples=60)
@given(CUTS, PIECES)
def test_any_cut_of_any_stream(cut: tuple[Name, int], size: int) -> None:
    name, place = cut
    records = whole(name)
    last = records[place]
    point = point_of(name, last.object, last.offset)

    made = read(resume(in_pieces(stream(name), size), point), resuming=True)

    # From the data at the point on, the tail of the original.
    tail = [content(record) for record in records[place:]]
    assert [content(record) for record in made[-len(tail) :]] == tail
    # Before it, only what describes the object that it belongs to.
    lead = made[1 : -len(tail)]
    assert all(record.type not in WRITES for record in lead)
    assert [record.object for record in lead if record.type == RecordType.OBJECT] == [last.object]
    assert {record.object for record in lead if record.type != RecordType.FREEOBJECTS} == {last.object}
    before = [content(record) for record in records[:place]]
    assert all(content(record) in before for record in lead)


@pytest.mark.parametrize("name", NAMES)
def test_begin(name: Name) -> None:
    place = writes_of(name)[-1]
    last = whole(name)[place]
    made = read(resume([stream(name)], point_of(name, last.object, last.offset)), resuming=True)[0]
    original = whole(name)[0]
    order = begin_of(name)[3]
    assert len(made.payload) == 96
    assert unpack(bytes(made.payload)) == (
        "<", {"resume_object": last.object, "resume_offset": last.offset},
    )  # fmt: skip
    changed = bytearray(original.header)
    changed[4:8] = struct.pack(f"{order}I", 96)
    versioninfo = struct.unpack_from(f"{order}Q", original.header, 16)[0]
    changed[16:24] = struct.pack(f"{order}Q", versioninfo | 1 << 22)
    assert made.header == bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_every_checksum_is_stated(name: Name) -> None:
    """Also those that an old sender left out."""
    place = writes_of(name)[0]
    first = whole(name)[place]
    made = read(resume([stream(name)], point_of(name, first.object, first.offset)), resuming=True)
    assert all(any(record.header[CHECKED_SIZE:]) for record in made[1:])


def test_the_same_as_a_writer_would_write() -> None:
    """Byte for byte what the sums of a stream from scratch are."""
    writer = StreamWriter(guid=5)
    start = [writer.begin(features=4), writer.object(3), writer.free(3, 16, END_OF_OBJECT)]
    blocks = [writer.write(3, offset, bytes([offset + 1] * 4)) for offset in range(0, 16, 4)]
    original = b"".join([*start, *blocks, writer.end()])

    writer = StreamWriter(guid=5)
    payload = bytes(read(resume([original], ResumePoint(3, 8, 5)), resuming=True)[0].payload)
    expected = [
        writer.begin(features=4 | 1 << 20, payload=payload),
        writer.object(3),
        writer.free(3, 16, END_OF_OBJECT),
        writer.write(3, 8, bytes([9] * 4)),
        writer.write(3, 12, bytes([13] * 4)),
        writer.end(),
    ]
    assert b"".join(resume([original], ResumePoint(3, 8, 5))) == b"".join(expected)


@given(st.lists(st.integers(0, len(made_stream())), max_size=30))
def test_pieces_of_any_length(cuts: list[int]) -> None:
    data = stream("small")
    last = whole("small")[writes_of("small")[9]]
    point = point_of("small", last.object, last.offset)
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    assert b"".join(resume(pieces, point)) == b"".join(resume([data], point))


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    last = whole("small")[writes_of("small")[9]]
    point = point_of("small", last.object, last.offset)
    made = b"".join(resume([stream("small")], point))
    monkeypatch.setattr(fletcher4, "load_arithmetic", fletcher4.Plain)
    assert b"".join(resume([stream("small")], point)) == made


def test_progress() -> None:
    data = stream("base")
    last = whole("base")[writes_of("base")[300]]
    resumer = Resumer(point_of("base", last.object, last.offset))
    made = b"".join(resumer.feed(piece) for piece in in_pieces(data, 100_000))
    resumer.finish()
    assert 0 < len(made) < len(data)


def test_memory_is_bounded() -> None:
    size = 32 << 20
    point = ResumePoint(1, 8 << 20, 9, features=Feature(0))
    tracemalloc.start()
    try:
        pieces = stream_of(random_content(size, 1), guid=9)
        given = sum(len(piece) for piece in resume(pieces, point))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert given > 24 << 20
    assert peak < 8 << 20


# -- what a receiver has then --------------------------------------------------------------------------------


@dataclass
class Dataset:
    """What records make of a dataset, as `receive_object` and its like in module/zfs/dmu_recv.c do."""

    objects: dict[int, bytes] = field(default_factory=dict)  #: number to what OBJECT says
    spills: dict[int, bytes] = field(default_factory=dict)
    blocks: dict[int, dict[int, Record]] = field(default_factory=dict)  #: by number, then by offset

    def apply(self, record: Record) -> None:
        number = record.object
        match record.type:
            case RecordType.OBJECT:
                before = self.objects.get(number)
                if before is not None and before[28:40] != record.header[28:40]:
                    self.blocks.pop(number, None)  # another block or bonus size: another file
                self.objects[number] = bytes(record.header[:CHECKED_SIZE]) + bytes(record.payload)
                self.blocks.setdefault(number, {})
            case RecordType.FREEOBJECTS:
                gone = [other for other in self.objects if 0 <= other - number < record.length]
                for other in gone:
                    del self.objects[other], self.blocks[other]
                    self.spills.pop(other, None)
            case RecordType.FREE:
                blocks = self.blocks[number]
                for offset in [place for place in blocks if 0 <= place - record.offset < record.length]:
                    del blocks[offset]
            case RecordType.SPILL:
                assert number in self.objects
                self.spills[number] = bytes(record.payload)
            case RecordType.WRITE | RecordType.WRITE_EMBEDDED:
                # KeyError: data of an object that the receiver has not been told of.
                kept = record._replace(header=bytes(record.header[:CHECKED_SIZE]))
                self.blocks[number][record.offset] = kept
            case _:
                pass


@functools.cache
def origin_of(name: Name) -> Dataset:
    """What a receive begins with."""
    return received("base") if name == "incremental" else Dataset()


@functools.cache
def received(name: Name) -> Dataset:
    dataset = deepcopy(origin_of(name))
    for record in whole(name):
        dataset.apply(record)
    return dataset


@settings(max_examples=60)
@given(st.sampled_from(NAMES), st.data())
def test_a_receive_that_is_cut_again_and_again(name: Name, data: st.DataObject) -> None:
    """What is in the pool after a cut ends behind the last data, wherever a transaction group ended."""
    dataset, point = deepcopy(origin_of(name)), point_of(name, 1, 0)
    records = whole(name)
    for _ in range(data.draw(st.integers(1, 3), label="cuts")):
        cut = data.draw(st.integers(1, len(records)), label="cut")
        for record in records[:cut]:
            dataset.apply(record)
            if record.type in WRITES:
                point = point_of(name, record.object, record.offset)
        records = read(resume(in_pieces(stream(name)), point), resuming=True)
    for record in records:
        dataset.apply(record)
    assert dataset == received(name)


@settings(max_examples=30)
@given(st.sampled_from(NAMES), st.data())
def test_records_that_were_put_off(name: Name, data: st.DataObject) -> None:
    """OpenZFS from 2026 on lets a point stand at the beginning of an object that is yet to be made."""
    places = [place for place, record in enumerate(whole(name)) if record.type == RecordType.OBJECT]
    place = data.draw(st.sampled_from(places))
    records = whole(name)[place:]
    made = read(resume(in_pieces(stream(name)), point_of(name, records[0].object, 0)), resuming=True)
    assert [content(record) for record in made[1:]] == [content(record) for record in records]


@pytest.mark.parametrize("name", NAMES)
def test_a_receive_that_has_written_nothing(name: Name) -> None:
    """It stands at (1, 0)."""
    made = read(resume([stream(name)], point_of(name, 1, 0)), resuming=True)
    dropped, kept = whole(name)[1 : -len(made) + 1], whole(name)[-len(made) + 1 :]
    assert [content(record) for record in made[1:]] == [content(record) for record in kept]
    assert all(record.type == RecordType.FREEOBJECTS for record in dropped)


def test_a_receive_that_has_written_nothing_of_a_stream_without_object_1() -> None:
    """It stands there all the same, and what is to be freed first must not be left out."""
    writer = StreamWriter(guid=5)
    parts = [writer.begin(), writer.freeobjects(0, 7), writer.object(7), writer.write(7, 0, b"data")]
    made = read(resume([b"".join([*parts, writer.end()])], ResumePoint(1, 0, 5)), resuming=True)
    assert [record.type.name for record in made] == ["BEGIN", "FREEOBJECTS", "OBJECT", "WRITE", "END"]


def test_holes_before_the_point_are_left_out() -> None:
    writer = StreamWriter(guid=5)
    parts = [writer.begin(), writer.object(1), writer.free(1, 12, END_OF_OBJECT), writer.free(1, 0, 4)]
    parts += [writer.write(1, 4, b"data"), writer.free(1, 8, 4), writer.free(2, 0, 4), writer.end()]
    made = read(resume([b"".join(parts)], ResumePoint(1, 4, 5)), resuming=True)
    assert [(record.type.name, record.object, record.offset) for record in made[1:-1]] == [
        ("OBJECT", 1, 0), ("FREE", 1, 12), ("WRITE", 1, 4), ("FREE", 1, 8), ("FREE", 2, 0),
    ]  # fmt: skip


def test_a_stream_without_data() -> None:
    writer = StreamWriter(guid=5)
    data = b"".join([writer.begin(), writer.object(1), writer.freeobjects(2, 5), writer.end()])
    made = read(resume([data], ResumePoint(1, 0, 5)), resuming=True)
    assert [record.type.name for record in made] == ["BEGIN", "OBJECT", "FREEOBJECTS", "END"]


# -- what is refused -----------------------------------------------------------------------------------------


def refused(name: Name, point: ResumePoint, message: str) -> None:
    with pytest.raises(ResumeError, match=message) as caught:
        list(resume(in_pieces(stream(name)), point))
    assert caught.value.hint


def test_another_snapshot() -> None:
    point = point_of("base", 1, 0)
    refused("base", replace(point, toguid=7), f"guid {point.toguid}, and the receive's 7")


def test_another_origin() -> None:
    point = point_of("incremental", 1, 0)
    refused("incremental", replace(point, fromguid=0), f"builds on .* {point.fromguid}, and the receive's 0")
    refused("base", replace(point_of("base", 1, 0), fromguid=7), "builds on .* 0, and the receive's 7")


def test_nothing_comes_out_of_another_stream() -> None:
    resumer = Resumer(ResumePoint(1, 0, 7))
    pieces = in_pieces(stream("small"), 100)
    made = []
    with pytest.raises(ResumeError):
        made.extend(map(resumer.feed, pieces))
    assert b"".join(made) == b""


@pytest.mark.parametrize(
    "feature", [Feature.LARGE_BLOCKS, Feature.EMBED_DATA, Feature.COMPRESSED, Feature.RAW]
)
def test_the_same_snapshot_sent_otherwise(feature: Feature) -> None:
    """With other blocks, what the receive has would be thrown away when its object comes again."""
    point = point_of("base", 1, 0)
    assert point.features == Feature(0)
    refused("base", replace(point, features=feature), "other options")
    read(resume([stream("base")], replace(point, features=None)), resuming=True)


@settings(max_examples=30)
@given(CUTS, st.integers(1, 511))
def test_a_place_within_a_block(cut: tuple[Name, int], more: int) -> None:
    last = whole(cut[0])[cut[1]]
    refused(cut[0], point_of(cut[0], last.object, last.offset + more), "has no record there")


@pytest.mark.parametrize("place", [(2**64 - 1, 0), (2**64 - 1, 2**64 - 1), (1, 2**63)])
def test_a_place_that_is_not_there(place: tuple[int, int]) -> None:
    refused("small", point_of("small", *place), "has no record there")
    refused("large", point_of("large", *place), "has no record there")


def test_a_begin_with_a_payload() -> None:
    writer = StreamWriter(guid=5)
    data = writer.begin(payload=b"nvlist..") + writer.end()
    with pytest.raises(ResumeError, match="payload"):
        list(resume([data], ResumePoint(1, 0, 5)))


def test_a_resuming_stream_is_not_the_whole_one() -> None:
    point = point_of("small", 1, 0)
    half = b"".join(resume([stream("small")], point))
    with pytest.raises(StreamError, match="second half"):
        list(resume([half], point))
    with pytest.raises(StreamError, match="second half"):
        read([half])


@settings(max_examples=60)
@given(CUTS, st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit(cut: tuple[Name, int], place: float, bit: int) -> None:
    name, at = cut
    last = whole(name)[at]
    damaged = bytearray(stream(name))
    where = int(place * len(damaged))
    # Of an old stream's last record nothing sums up what END does not use: all but its type and its checksum.
    in_end = where - (len(damaged) - HEADER_SIZE)
    assume(name != "old" or in_end < 4 or 8 <= in_end < 40)
    damaged[where] ^= 1 << bit
    with pytest.raises(StreamError):
        list(resume(in_pieces(bytes(damaged)), point_of(name, last.object, last.offset)))


@settings(max_examples=40)
@given(CUTS, st.floats(0, 1, exclude_max=True))
def test_a_stream_that_ends_early(cut: tuple[Name, int], place: float) -> None:
    name, at = cut
    last = whole(name)[at]
    short = stream(name)[: int(place * len(stream(name)))]
    with pytest.raises(StreamError, match=r"ends early|is empty|not a ZFS"):
        list(resume([short], point_of(name, last.object, last.offset)))


@given(st.binary(max_size=1000))
def test_anything_may_come(data: bytes) -> None:
    with pytest.raises(StreamError):
        list(resume([data], ResumePoint(1, 0, 1)))


U64 = st.integers(0, 2**64 - 1) | st.integers(0, 9)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5), U64, U64, U64), max_size=12), U64, U64)
def test_records_in_any_order(records: list[tuple[int, int, int, int]], number: int, offset: int) -> None:
    writer = StreamWriter(guid=5)
    make = (
        lambda first, _, third: writer.object(first, block_size=third & 0xFFFFFFFF),
        lambda first, _, third: writer.freeobjects(first, third),
        lambda first, second, third: writer.free(first, second, third),
        # Not beyond 2^63, where no reader takes data.
        lambda first, second, _: writer.write(first, second >> 2, b"data"),
        lambda first, second, third: writer.write_embedded(first, second >> 2, third & 0xFFFFFFFF, b"packed"),
        lambda first, second, _: writer.spill(first, struct.pack("<Q", second)),
    )
    parts = [writer.begin(), *(make[kind](*numbers) for kind, *numbers in records), writer.end()]
    try:
        made = b"".join(resume([b"".join(parts)], ResumePoint(number, offset, 5)))
    except ResumeError:
        return
    read([made], resuming=True)


def test_filesystem_of_ordinary_records() -> None:
    data = filesystem_stream(size=3 << 20, seed=4, guid=11)
    made = b"".join(resume(in_pieces(data), ResumePoint(1, 2 << 20, 11)))
    assert [record.type.name for record in read([made], resuming=True)] == [
        "BEGIN", "OBJECT", *["WRITE"] * 8, "FREE", "FREEOBJECTS", "END",
    ]  # fmt: skip
