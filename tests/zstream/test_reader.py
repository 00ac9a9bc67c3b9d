from __future__ import annotations

import itertools
import random
import struct
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import StreamError
from imgstored.zstream import fletcher4
from imgstored.zstream.reader import OutlineReader, ReaderState, StreamReader
from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE, Objset, Record, RecordType
from tests.support.streams import StreamWriter, filesystem_stream, in_pieces, real_stream, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.zstream.fletcher4 import Buffer, ByteOrder

Name = Literal["base", "incremental", "zvol"]
NAMES: tuple[Name, ...] = ("base", "incremental", "zvol")


def read(pieces: Iterable[Buffer]) -> list[Record]:
    reader = StreamReader()
    records = [kept(record) for piece in pieces for record in reader.records(piece)]
    reader.finish()
    return records


def kept(record: Record) -> Record:
    """Views are only good until the next piece."""
    return record._replace(header=bytes(record.header), payload=bytes(record.payload))


def small_stream(order: ByteOrder = "<", *, checksums: bool = True) -> bytes:
    """Some kilobytes with every kind of record, and with one that is summed by itself."""
    writer = StreamWriter(order, checksums=checksums, guid=5)
    return b"".join(
        [
            writer.begin(features=4 | 1 << 16 | 1 << 17, payload=b"nvlist.."),
            writer.object(7, bonus=b"bonus"),
            writer.freeobjects(8, 3),
            writer.write(7, 0, b"0123" * 100),
            writer.write(7, 4096, b"packed.." * 3, compressed_from=4096),
            writer.write_embedded(7, 8192, 4096, b"embedded"),
            writer.spill(7, b"spill" * 8),
            writer.write(7, 1 << 40, bytes(64 << 10)),
            writer.free(7, 5, 2**64 - 1),
            writer.end(),
        ]
    )


SMALL = small_stream()


@pytest.mark.parametrize(("name", "records"), [("base", 1623), ("incremental", 238), ("zvol", 81)])
def test_real_streams(name: Name, records: int) -> None:
    stream = real_stream(name)
    found = read(in_pieces(stream))
    assert len(found) == records
    assert b"".join(part for record in found for part in (record.header, record.payload)) == stream


def test_what_begin_says() -> None:
    reader = StreamReader()
    assert reader.begin is None
    reader.check(real_stream("incremental")[:400])
    assert reader.begin is not None
    assert reader.begin.toguid == 11629902597155826855
    assert reader.begin.fromguid == 3180115020765103000
    assert reader.begin.objset is Objset.FILESYSTEM
    assert reader.begin.toname == "zones/11111111-aaaa-4bbb-8ccc-000000000002@final"


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order: ByteOrder) -> None:
    records = read([small_stream(order)])
    assert [record.type.name for record in records] == [
        "BEGIN", "OBJECT", "FREEOBJECTS", "WRITE", "WRITE", "WRITE_EMBEDDED", "SPILL", "WRITE", "FREE", "END",
    ]  # fmt: skip
    assert (records[3].object, records[3].offset, records[3].length) == (7, 0, 400)
    assert records[4].compression
    assert records[4].length == 4096
    assert len(records[4].payload) == 24
    assert records[8].length == 2**64 - 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, len(SMALL)), max_size=40), st.sampled_from(["<", ">"]))
def test_any_cut_gives_the_same_records(cuts: list[int], order: ByteOrder) -> None:
    stream = small_stream(order)
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert read(pieces) == read([stream])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [311, 4093, 131_072])
def test_cuts_of_real_streams(name: Name, size: int) -> None:
    stream = real_stream(name)
    assert read(in_pieces(stream, size)) == read([stream])


def test_bytes_one_by_one() -> None:
    stream = real_stream("zvol")[:20_000]
    one_by_one, at_once = StreamReader(), StreamReader()
    at_once.check(stream)
    for piece in in_pieces(stream, 1):
        one_by_one.check(piece)
    assert one_by_one.state == at_once.state


def test_every_byte_counts() -> None:
    """One bit of every byte, each in turn; of the large payload, of every 97th."""
    chance = random.Random(1)
    large = range(SMALL.index(bytes(60_000)) + 100, len(SMALL) - 800)
    for place in range(len(SMALL)):
        if place in large and place % 97:
            continue
        damaged = bytearray(SMALL)
        damaged[place] ^= 1 << chance.randrange(8)
        with pytest.raises(StreamError) as caught:
            read([damaged])
        assert caught.value.hint


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_of_a_real_stream(name: Name, place: float, bit: int) -> None:
    damaged = bytearray(real_stream(name))
    damaged[int(place * len(damaged))] ^= 1 << bit
    with pytest.raises(StreamError):
        read(in_pieces(bytes(damaged)))


@given(st.binary(max_size=2000))
def test_anything_may_come(data: bytes) -> None:
    with pytest.raises(StreamError):
        read([data])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10), st.binary(min_size=304, max_size=304))
def test_any_header_may_come(kind: int, body: bytes) -> None:
    """With a right checksum, so that what it says is looked at."""
    writer = StreamWriter()
    with pytest.raises(StreamError) as caught:  # 20 MiB of zeros are no records
        StreamReader().records(writer.begin() + writer.record(kind, body) + bytes(20 << 20))
    assert caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_every_record(name: Name) -> None:
    stream = real_stream(name)
    reader, records = StreamReader(), read([stream])
    for record in records:
        later = StreamReader(reader.state)
        for each in (reader, later):
            each.check(bytes(record.header) + bytes(record.payload))
        assert later.state == reader.state
        assert later.begin == reader.begin
    assert reader.state.ended
    assert reader.state.offset == len(stream)


def test_state_is_at_the_end_of_a_record() -> None:
    reader = StreamReader()
    assert reader.state == ReaderState()
    reader.check(SMALL[: 3 * HEADER_SIZE])
    first = HEADER_SIZE + 8
    assert reader.offset == reader.state.offset == first + HEADER_SIZE + 8
    later = StreamReader(reader.state)
    later.check(SMALL[reader.offset :])
    later.finish()


def test_a_wrong_state_does_not_go_unseen() -> None:
    reader = StreamReader()
    reader.check(SMALL[:2000])
    wrong = ReaderState(reader.offset, (1, 2, 3, 4), reader.state.begin)
    with pytest.raises(StreamError, match="checksum"):
        StreamReader(wrong).check(SMALL[reader.offset :])


@pytest.mark.parametrize("name", NAMES)
def test_cut_short(name: Name) -> None:
    stream = real_stream(name)
    for size in (312, 313, 5000, len(stream) // 2, len(stream) - 312, len(stream) - 1):
        with pytest.raises(StreamError, match=f"ends early: {size} bytes") as caught:
            read([stream[:size]])
        assert "incomplete" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"<html>", bytes(312)])
def test_no_stream_at_all(data: bytes) -> None:
    with pytest.raises(StreamError, match="empty" if not data else "not a ZFS send stream"):
        read([data])


@pytest.mark.parametrize("rest", [b"\0", bytes(312), SMALL])
def test_nothing_after_the_end(rest: bytes) -> None:
    for pieces in ([SMALL + rest], [SMALL, rest]):
        with pytest.raises(StreamError, match="continues after its END"):
            read(pieces)
    read([SMALL, b""])


def test_a_second_begin() -> None:
    writer = StreamWriter()
    stream = writer.begin() + writer.write(1, 0, b"data") + writer.begin() + writer.end()
    with pytest.raises(StreamError, match="second BEGIN record is at byte 628"):
        read([stream])


def test_where_the_fault_is_said() -> None:
    writer = StreamWriter()
    parts = [
        writer.begin(),
        writer.write(1, 0, bytes(100_000)),
        writer.free(1, 0, 1),
        writer.write(1, 0, b"data"),
    ]
    damaged = bytearray(b"".join(parts))
    damaged[-100] ^= 1
    at = len(damaged) - 316
    with pytest.raises(StreamError, match=f"the WRITE record at byte {at} of the stream is wrong"):
        read([damaged])


def test_checksums_of_old_senders() -> None:
    """They state none but that of the whole."""
    stream = small_stream(checksums=False)
    assert len(read([stream])) == 10
    damaged = stream.replace(b"0123", b"0124", 1)
    with pytest.raises(StreamError, match="the stream as a whole"):
        read([damaged])


def test_a_long_name_is_where_begin_would_have_its_checksum() -> None:
    writer = StreamWriter()
    name = "zones/" + "x" * 240 + "@final"
    reader = StreamReader()
    reader.check(writer.begin(toname=name) + writer.end())
    reader.finish()
    assert reader.begin is not None
    assert reader.begin.toname == name


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ({"stream_kind": 2}, "package of several streams"),
        ({"features": 1}, "deduplicated"),
        ({"features": 1 << 24}, "raw and encrypted"),
        ({"features": 1 << 21}, "redacted"),
        ({"features": 1 << 20}, "second half"),
        ({"objset": 1}, "unknown kind of dataset"),
        ({"payload": bytes((64 << 10) + 8)}, "65544 bytes follow"),
    ],
)
def test_streams_that_are_no_image(begin: dict[str, int], message: str) -> None:
    writer = StreamWriter()
    with pytest.raises(StreamError, match=message) as caught:
        read([writer.begin(**begin) + writer.end()])  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize(
    "kind", [RecordType.WRITE_BYREF, RecordType.OBJECT_RANGE, RecordType.REDACT, 11, 2**32 - 1]
)
def test_records_that_no_image_has(kind: int) -> None:
    writer = StreamWriter()
    with pytest.raises(StreamError) as caught:
        read([writer.begin() + writer.record(kind, b"")])
    assert caught.value.hint


@pytest.mark.parametrize("length", [(16 << 20) + 8, 2**63, 2**64 - 8, 6])
def test_lengths_that_are_not_possible(length: int) -> None:
    writer = StreamWriter()
    body = struct.pack("<QIIQQ", 1, 19, 0, 0, length)
    with pytest.raises(StreamError, match=f"WRITE record says that {length} bytes"):
        read([writer.begin() + writer.record(3, body)])


def test_the_largest_block() -> None:
    writer = StreamWriter()
    stream = writer.begin() + writer.write(1, 0, bytes(16 << 20)) + writer.end()
    assert [len(record.payload) for record in read(in_pieces(stream))] == [0, 16 << 20, 0]


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fletcher4, "load_arithmetic", fletcher4.Plain)
    assert len(read([SMALL])) == 10
    with pytest.raises(StreamError, match="checksum"):
        read([SMALL.replace(b"0123", b"0124", 1)])


def test_sums_up_to_each_record() -> None:
    """Also where the record states none."""
    for checksums in (True, False):
        stream = small_stream(checksums=checksums)
        for size in (313, len(stream)):
            reader, at = StreamReader(), 0
            found = [pair for piece in in_pieces(stream, size) for pair in reader.records_and_sums(piece)]
            for record, sums in found:
                right = fletcher4.Fletcher4()
                right.update(stream[: at + CHECKED_SIZE])
                assert sums == right.sums
                at += HEADER_SIZE + len(record.payload)
            assert at == len(stream)


def test_a_second_half_is_read_only_where_that_is_meant() -> None:
    writer = StreamWriter()
    stream = writer.begin(features=1 << 20) + writer.write(1, 0, b"data") + writer.end()
    reader = StreamReader(resuming=True)
    reader.check(stream[:-312])
    later = StreamReader(reader.state, resuming=True)
    later.check(stream[-312:])
    later.finish()
    with pytest.raises(StreamError, match="second half"):
        StreamReader(reader.state)
    with pytest.raises(StreamError, match="deduplicated"):
        StreamReader(resuming=True).check(StreamWriter().begin(features=1 | 1 << 20))


def test_payloads_are_views_of_the_piece() -> None:
    stream = filesystem_stream(size=1 << 20, seed=1)
    records = StreamReader().records(stream)
    assert all(isinstance(record.payload, memoryview) and record.payload.obj is stream for record in records)


def test_made_volume() -> None:
    kinds = {record.type for record in read(stream_of([b"abc" * 100_000], guid=1, objset="volume"))}
    assert RecordType.WRITE in kinds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1000, 100_000, 1 << 22])
def test_an_outline_is_that_of_the_records(name: Name, size: int) -> None:
    stream = real_stream(name)
    reader, outline = StreamReader(), OutlineReader()
    for piece in in_pieces(stream, size):
        reader.check(piece)
        outline.check(piece)
        assert outline.offset == reader.offset
    outline.finish()
    with pytest.raises(StreamError, match="continues after its END"):
        outline.check(b"more")


@pytest.mark.parametrize("size", [5, 1000, len(small_stream()) - 1])
def test_an_outline_that_is_not_complete_or_not_one(size: int) -> None:
    outline = OutlineReader()
    outline.check(small_stream()[:size])
    with pytest.raises(StreamError):
        outline.finish()
    with pytest.raises(StreamError):
        OutlineReader().check(b"x" * 1000)


def test_an_outline_leaves_checksums_alone() -> None:
    damaged = bytearray(small_stream())
    damaged[HEADER_SIZE * 3] ^= 1
    with pytest.raises(StreamError):
        StreamReader().check(damaged)
    OutlineReader().check(damaged)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("reader", [StreamReader, OutlineReader])
@pytest.mark.parametrize("kind", ["write", "embedded"])
def test_data_where_no_object_has_any(order: ByteOrder, reader: type[StreamReader], kind: str) -> None:
    """Before a kernel adds offset and length up (openzfs/zfs#18239)."""

    def stream(offset: int) -> bytes:
        made = StreamWriter(order)
        head = made.begin(features=4) + made.object(1)
        if kind == "write":
            return head + made.write(1, offset, bytes(512)) + made.end()
        return head + made.write_embedded(1, offset, 512, b"x" * 100) + made.end()

    for offset in (0, (1 << 63) - 512):
        checking = reader()
        checking.check(stream(offset))
        checking.finish()
    for offset in ((1 << 63) - 511, (1 << 64) - 512, (1 << 64) - 1):
        with pytest.raises(StreamError, match=f"at byte {offset} of its object") as caught:
            reader().check(stream(offset))
        assert caught.value.hint
