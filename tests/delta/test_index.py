"""The index of a file, made of real and of made streams, read again, and spoilt."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imgstored.delta.assemble import assembled
from imgstored.delta.build import IndexBuilder
from imgstored.delta.index import MAX_FRAME, Head, IndexFaultError, encode_index, hash_of, parse_index
from imgstored.errors import NotSupportedError, StreamError
from tests.support.deltas import files, indexed, tree
from tests.support.streams import StreamWriter, in_pieces, real_stream, stream_of

HEAD = struct.Struct("<8sIIQQ32sQQQQQQ")


def payloads(stream, index):
    """All payloads of a stream that are not in the skeleton, one after another."""
    return b"".join(stream[at : at + size] for at, size in zip(index.starts, index.lengths, strict=True))


def put_together(stream, index):
    """The stream, from the index and the payloads alone."""
    left = memoryview(payloads(stream, index))

    def take(size):
        nonlocal left
        data, left = left[:size], left[size:]
        return data

    made = b"".join(assembled(index, take))
    assert not left
    return made


def check(stream):
    """Makes the file and the index of a stream, and compares them with it."""
    file, data = indexed(stream)
    index = parse_index(data, file_size=len(file))
    assert (index.file_size, index.stream_size) == (len(file), len(stream))
    assert index.sha256 == hashlib.sha256(stream).hexdigest()
    decompressor = zstandard.ZstdDecompressor()
    for frame, (start, end) in enumerate(zip(index.file_at, index.file_at[1:], strict=False)):
        content = decompressor.decompress(file[start:end], allow_extra_data=False)
        assert content == stream[index.stream_at[frame] : index.stream_at[frame + 1]]
        for number in index.in_frame(frame):
            assert index.frame_of(number) == frame
            at = index.starts[number] - index.stream_at[frame]
            assert hash_of(content[at : at + index.lengths[number]]) == index.hash_of(number)
    assert put_together(stream, index) == stream
    return file, data


@pytest.mark.parametrize("name", ["base", "incremental", "zvol"])
def test_real_streams(name):
    stream = real_stream(name)
    file, data = check(stream)
    assert len(data) < 0.02 * len(file)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("record_size", [512, 8 << 10, 128 << 10])
def test_trees_in_both_byte_orders(order, record_size):
    check(tree(files(20, largest=300_000), guid=3, record_size=record_size, byte_order=order))


def test_every_program_reads_the_file_whole():
    stream = tree(files(30), guid=3)
    file, _ = indexed(stream)
    assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == stream


@given(st.lists(st.integers(0, 200_000), max_size=6), st.integers(1, 1 << 20), st.sampled_from("<>"))
def test_any_stream_in_any_pieces(sizes, piece, order):
    chance = random.Random(str(sizes))
    contents = [chance.randbytes(size) for size in sizes]
    stream = tree(contents, guid=5, record_size=1 << chance.randrange(9, 18), byte_order=order)
    builder = IndexBuilder()
    for each in in_pieces(stream, piece):
        builder.feed(each)
    builder.frame(1 + len(stream), len(stream))
    index = parse_index(builder.finish())
    assert put_together(stream, index) == stream


def test_all_kinds_of_records():
    writer = StreamWriter(guid=9)
    chance = random.Random(1)
    stream = b"".join(
        (
            writer.begin(payload=bytes(64)),
            writer.object(1, bonus=chance.randbytes(170)),
            writer.spill(1, chance.randbytes(1024)),
            writer.write_embedded(1, 0, 4096, chance.randbytes(100)),
            writer.write(1, 4096, chance.randbytes(2048), compressed_from=8192),
            writer.write(1, 16384, bytes(512)),
            writer.free(1, 20480, (1 << 64) - 1),
            writer.freeobjects(2, 30),
            writer.end(),
        )
    )
    check(stream)


# -- what has none -------------------------------------------------------------------------------------------


def test_a_stream_without_checksums_has_no_index():
    writer = StreamWriter(checksums=False)
    with pytest.raises(NotSupportedError, match="checksums of their own"):
        indexed(b"".join((writer.begin(), writer.object(1), writer.end())))


def test_a_damaged_stream_has_none():
    stream = bytearray(tree(files(3), guid=2))
    stream[2000] ^= 1
    with pytest.raises(StreamError):
        indexed(bytes(stream))
    with pytest.raises(StreamError):
        indexed(bytes(tree(files(3), guid=2)[:-312]))


def test_a_file_of_other_frames_has_none():
    """A payload would be in two of them; a frame would be too large to decompress it at once."""
    stream = b"".join(stream_of([bytes(1 << 20)], guid=1))
    for frames in ([100_000, len(stream) - 100_000], [len(stream) - 1]):
        builder = IndexBuilder()
        builder.feed(stream)
        for size in frames:
            builder.frame(50, size)
        with pytest.raises(NotSupportedError):
            builder.finish()
    with pytest.raises(NotSupportedError, match="too large"):
        IndexBuilder().frame(50, MAX_FRAME + 1)


# -- hostile ones --------------------------------------------------------------------------------------------

FILE, DATA = indexed(tree(files(12), guid=4))


def resealed(body):
    return bytes(body) + hashlib.sha256(body).digest()[:16]


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(at, change):
    data = bytearray(DATA)
    data[at] ^= change
    with pytest.raises(IndexFaultError):
        parse_index(data)


@given(st.integers(0, len(DATA) - 17), st.integers(1, 255))
def test_a_changed_byte_with_a_right_checksum_breaks_nothing(at, change):
    """It is refused, or it is an index of something else, which is within its own bounds."""
    data = bytearray(DATA[:-16])
    data[at] ^= change
    try:
        index = parse_index(resealed(data))
    except IndexFaultError:
        return
    assert sum(index.lengths) < index.stream_size <= 1 << 40
    assert index.file_at[-1] == index.file_size
    for number in range(index.payloads):
        frame = index.frame_of(number)
        assert index.stream_at[frame] <= index.starts[number]
        assert index.starts[number] + index.lengths[number] <= index.stream_at[frame + 1]


@given(st.integers(0, len(DATA) - 1))
def test_any_cut_is_found(size):
    with pytest.raises(IndexFaultError):
        parse_index(DATA[:size])


@given(st.binary(max_size=400))
def test_any_bytes(data):
    with pytest.raises(IndexFaultError):
        parse_index(data)
    with pytest.raises(IndexFaultError):
        parse_index(DATA[: HEAD.size] + data)


def head():
    return Head(*HEAD.unpack_from(DATA))


def sections():
    first = HEAD.size + head().frames_size
    second = first + 16 * head().payloads
    return DATA[HEAD.size : first], DATA[first:second], DATA[second:-16]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magic", b"imgindey"),
        ("version", 2),
        ("inline", 0),
        ("inline", 1 << 20),
        ("file_size", 0),
        ("file_size", head().file_size + 1),
        ("stream_size", 1 << 60),
        ("stream_size", head().stream_size - 4),
        ("records", 1),
        ("records", (1 << 64) - 1),
        ("records", head().records + 1),
        ("records", head().records - 1),
        ("payloads", (1 << 64) - 1),
        ("payloads", head().payloads - 1),
        ("frames", 0),
        ("frames", head().frames - 1),
        ("frames", head().frames + 1),
        ("frames_size", (1 << 64) - 1),
        ("skeleton_size", 0),
        ("skeleton_plain", (1 << 63) - 1),
        ("skeleton_plain", head().skeleton_plain - 4),
        ("skeleton_plain", head().skeleton_plain + 4),
    ],
)
def test_numbers_that_cannot_be(field, value):
    wrong = head()._replace(**{field: value})
    with pytest.raises(IndexFaultError):
        parse_index(encode_index(wrong, *sections()))


def test_a_section_that_becomes_much_larger_is_not_read_to_its_end():
    """64 MiB of zeros in a few bytes, where the skeleton should be."""
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    frames, hashes, _ = sections()
    for plain in (head().skeleton_plain, 312):
        wrong = head()._replace(skeleton_size=len(bomb), skeleton_plain=plain)
        with pytest.raises(IndexFaultError):
            parse_index(encode_index(wrong, frames, hashes, bomb))


def test_an_index_of_another_file_is_refused():
    with pytest.raises(IndexFaultError, match="the index is of a file of"):
        parse_index(DATA, file_size=len(FILE) + 1)
