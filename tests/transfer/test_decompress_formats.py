"""What is known here of each format: where its parts and blocks begin and end."""

from __future__ import annotations

import bz2
import random
import struct
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import UncompressionError
from imgstored.transfer.decompress import xz
from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.decompress.sniff import codec_of
from imgstored.transfer.decompress.zstd import BLOCK_MAX, FrameWalk
from tests.support.compressed import KINDS, decode, pieces_of, some_bytes, xz_in_blocks, zstd

DATA = some_bytes(450_000)

# -- what a file is ------------------------------------------------------------------------------------------

BEGIN_LITTLE = bytes(8) + (0x2F5BACBAC).to_bytes(8, "little") + bytes(296)
BEGIN_BIG = bytes(8) + (0x2F5BACBAC).to_bytes(8, "big") + bytes(296)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("data", [b"", b"some bytes"])
def test_codec_by_content(kind: object, data: bytes) -> None:
    assert codec_of(kind.compress(data)[:64]) == kind.codec  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [BEGIN_LITTLE, BEGIN_BIG])
def test_a_stream_that_is_not_compressed(stream: bytes) -> None:
    assert codec_of(stream[:64]) == "none"
    assert decode(pieces_of(stream, 7)) == stream


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"", "empty"),
        (b"\r\n <!DOCTYPE html><title>404", "an HTML page (it begins with 0d 0a 20 3c"),
        (b"<html>", "an HTML page"),
        (b'{"code": "ResourceNotFound"}', "a JSON document"),
        (b"<?xml version", "an XML document"),
        (b"QFI\xfb\0\0\0\3", "a qcow2 disk image"),
        (b"BZh", "begins with 42 5a 68"),
        (b"BZh0" + b"1AY&SY", "begins with 42 5a 68 30"),
        (b"\x1f\x8b", "begins with 1f 8b"),
        (bytes(64), "of no known kind (it begins with 00 00"),
        # Characters of a stranger's choosing do not reach the terminal.
        (b"\x1b[2J", "begins with 1b 5b 32 4a"),
    ],
)
def test_says_what_else_it_is(head: bytes, found: str) -> None:
    if head == b"BZh":
        assert codec_of(head + b"9") == "bzip2"
    with pytest.raises(UncompressionError) as caught:
        decode([head])
    assert found in caught.value.message
    assert "expected a ZFS stream" in caught.value.message


@given(head=st.binary(max_size=64))
def test_any_head_has_a_codec_or_is_refused(head: bytes) -> None:
    try:
        codec = codec_of(head)
    except UncompressionError:
        return
    assert codec == "none" or head[:1] in b"\x1f\xfd\x28BPQRSTUVWXYZ[\\]^_"


# -- input ---------------------------------------------------------------------------------------------------


@given(
    blocks=st.lists(st.binary(max_size=6), max_size=12),
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "back", "peek", "zeros", "exactly"]), st.integers(0, 9))
    ),
)
def test_a_feed_is_its_bytes_in_order(blocks: list[bytes], steps: list[tuple[str, int]]) -> None:
    whole = b"".join(blocks)
    feed, at = Feed(blocks), 0
    for what, count in steps:
        if what == "peek":
            assert feed.peek(count) == whole[at : at + count]
        elif what == "zeros":
            skipped = feed.skip_zeros()
            assert skipped == len(whole[at:]) - len(whole[at:].lstrip(b"\0"))
            at += skipped
        elif what == "exactly" and count <= len(whole) - at:
            assert feed.exactly(count) == whole[at : at + count]
            at += count
        elif what in ("take", "back") and count:
            taken = bytes(feed.take(count))
            assert taken == whole[at : at + len(taken)]
            assert bool(taken) == (at < len(whole))
            at += len(taken)
            if what == "back":
                feed.back(len(taken))
                at -= len(taken)
        assert feed.position == at
    with pytest.raises(EOFError):
        feed.exactly(len(whole) - at + 1)


# -- bzip2 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerated", [True, False])
def test_bzip2_without_one_of_its_blocks(accelerated: bool) -> None:
    """A decoder that skips what it does not know would lose 100,000 bytes unnoticed."""
    file = bz2.compress(DATA, 1)
    for bit in range(8):
        for at in range(20_000, len(file) - 100):
            if int.from_bytes(file[at : at + 7], "big") >> 8 - bit & (1 << 48) - 1 == 0x314159265359:
                damaged = bytearray(file)
                damaged[at + 3] ^= 0x04
                with pytest.raises(UncompressionError, match="corrupt"):
                    decode([bytes(damaged)], accelerated=accelerated)


# -- xz ------------------------------------------------------------------------------------------------------


def test_xz_blocks_are_streams() -> None:
    file = xz_in_blocks(DATA, 100_000)
    units = list(xz.units(Feed([file])))
    assert len(units) == 5
    assert b"".join(decode([unit]) for unit in units) == DATA
    assert decode([units[1]], accelerated=False) == DATA[100_000:200_000]


def test_xz_is_divided_where_its_blocks_state_their_size() -> None:
    (plain,) = [kind for kind in KINDS if kind.name == "xz"]
    assert xz.is_divisible(xz_in_blocks(DATA)[:32])
    assert not xz.is_divisible(plain.compress(DATA)[:32])
    assert not xz.is_divisible(plain.compress(b""))
    assert not xz.is_divisible(xz_in_blocks(DATA)[:20])


def with_crc(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def test_xz_whose_index_names_other_blocks() -> None:
    """Blocks exchanged: each is sound, but not where it should be."""
    file = xz_in_blocks(DATA[:100_000] + DATA[:50_000], 100_000)
    units = list(xz.units(Feed([file])))
    index_size = (int.from_bytes(file[-8:-4], "little") + 1) * 4
    blocks = [unit[12 : -(12 + (int.from_bytes(unit[-8:-4], "little") + 1) * 4)] for unit in units]
    assert file == file[:12] + b"".join(blocks) + file[-12 - index_size :]
    exchanged = file[:12] + b"".join(reversed(blocks)) + file[-12 - index_size :]
    with pytest.raises(UncompressionError, match="index does not match"):
        list(xz.units(Feed([exchanged])))
    one_less = file[:12] + blocks[0] + file[-12 - index_size :]
    with pytest.raises(UncompressionError, match="index does not match"):
        list(xz.units(Feed([one_less])))


def test_xz_block_that_claims_to_be_huge_is_not_waited_for() -> None:
    file = xz_in_blocks(DATA, 100_000)
    first = next(iter(xz.units(Feed([file]))))
    block = first[12 : -(12 + (int.from_bytes(first[-8:-4], "little") + 1) * 4)]
    huge = with_crc(b"\x07\xc0" + b"\xff\xff\xff\xff\x7f" + b"\x01" + b"\x21\x01\x16" + bytes(17))
    with pytest.raises(UncompressionError, match="follows smaller ones"):
        list(xz.units(Feed([first[:12] + block + huge])))


def test_xz_block_without_sizes_after_one_with_them() -> None:
    first = next(iter(xz.units(Feed([xz_in_blocks(DATA, 100_000)]))))
    block = first[12 : -(12 + (int.from_bytes(first[-8:-4], "little") + 1) * 4)]
    plain = with_crc(b"\x02\x00\x21\x01\x16" + bytes(3))
    with pytest.raises(UncompressionError, match="does not state its size"):
        list(xz.units(Feed([first[:12] + block + plain])))


@pytest.mark.parametrize("integer", [b"\xff" * 9, b"\xff" * 30])
def test_xz_block_whose_size_is_no_number(integer: bytes) -> None:
    with pytest.raises(UncompressionError, match="damaged block header"):
        xz.is_divisible(xz_in_blocks(DATA)[:12] + b"\x07\xc0" + integer + bytes(20))


# -- zstd ----------------------------------------------------------------------------------------------------

SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def frames() -> list[bytes]:
    compressors = [
        zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
        for checksum in (False, True)
        for size in (False, True)
    ]
    contents = [b"", b"x", DATA[:300], DATA, bytes(400_000), random.Random(3).randbytes(300_000)]
    return [SKIPPABLE] + [compressor.compress(data) for compressor in compressors for data in contents]


@given(
    frame=st.sampled_from(frames()), cuts=st.lists(st.floats(0, 1), max_size=20), after=st.binary(max_size=20)
)
def test_zstd_walk_finds_where_a_frame_ends(frame: bytes, cuts: list[float], after: bytes) -> None:
    walk, at = FrameWalk(), 0
    data = frame + after
    for stop in [*sorted(int(cut * len(data)) for cut in cuts), len(data)]:
        while at < stop and not walk.ended:
            at += walk.walk(memoryview(data)[at:stop], 3)
    assert walk.ended
    assert at == len(frame)


@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_zstd_walk_stops_after_so_many_blocks(blocks: int) -> None:
    frame = zstd(bytes(2 << 20))
    walk, at = FrameWalk(), 0
    decoder = zstandard.ZstdDecompressor().decompressobj()
    while not walk.ended:
        taken = walk.walk(memoryview(frame)[at:], blocks)
        assert len(decoder.decompress(frame[at : at + taken])) <= blocks * BLOCK_MAX
        at += taken


@given(data=st.binary(max_size=300))
def test_zstd_walk_of_anything_goes_forward_or_refuses(data: bytes) -> None:
    walk = FrameWalk()
    rest = memoryview(b"\x28\xb5\x2f\xfd" + data)
    while rest and not walk.ended:
        try:
            taken = walk.walk(rest, 1)
        except ValueError:
            return
        assert taken > 0
        rest = rest[taken:]


def test_zstd_skippable_frames() -> None:
    assert decode([SKIPPABLE, zstd(DATA), SKIPPABLE, SKIPPABLE, zstd(b"end"), SKIPPABLE]) == DATA + b"end"
