"""Every kind of file, with the accelerated decoders and with the standard library's."""

from __future__ import annotations

import gzip
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstored.errors import DownloadError, UncompressionError
from imgstored.transfer.decompress import Meter, decompressed, xz
from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.decompress.meter import PART
from tests.support.compressed import KINDS, Kind, decode, pieces_of, some_bytes, xz_in_blocks
from tests.support.limits import decompress_limits
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIXTURES = Path(__file__).parent.parent / "data"
DATA = some_bytes(450_000)
SMALL = some_bytes(700)
ZEROS = bytes(40 << 20)
BOMB = bytes(4 << 20)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
#: One test runs many examples, which a fixture need not be set up anew for.
same_fixture = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15
)


@pytest.fixture(params=[True, False], ids=["accelerated", "plain"])
def accelerated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether to use accelerators; and that no thread is left of either."""
    # Also where there is only one processor.
    monkeypatch.setattr("imgstored.transfer.decompress.workers_for", lambda limit: min(limit, 3))
    # That program has tests of its own, and other words for what is wrong.
    monkeypatch.setattr("imgstored.transfer.decompress.bzip2.PROGRAMS", ())
    with no_threads_left():
        yield request.param


# -- sound files ---------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("size", [0, 1, 700, 450_000])
def test_whole(kind: Kind, accelerated: bool, size: int) -> None:
    data = DATA[:size]
    assert decode([kind.compress(data)], accelerated=accelerated) == data


@every_kind
def test_one_byte_at_a_time(kind: Kind, accelerated: bool) -> None:
    data = DATA[:120_000]
    assert decode(pieces_of(kind.compress(data), 1), accelerated=accelerated) == data


@every_kind
def test_several_parts(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(SMALL) + kind.compress(b"") + kind.compress(DATA) + kind.compress(b"end")
    assert decode(pieces_of(file, 5000), accelerated=accelerated) == SMALL + DATA + b"end"


@every_kind
def test_very_many_tiny_parts(kind: Kind, accelerated: bool) -> None:
    assert decode([kind.compress(b"tiny") * 1000], accelerated=accelerated) == b"tiny" * 1000


@every_kind
def test_any_division_into_blocks(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(DATA[:150_000]) + kind.compress(SMALL)

    @given(cuts=st.lists(st.integers(0, len(file)), max_size=20).map(sorted))
    @same_fixture
    def check(cuts: list[int]) -> None:
        blocks = [file[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(file)], strict=True)]
        assert decode(blocks, accelerated=accelerated) == DATA[:150_000] + SMALL

    check()


@every_kind
@pytest.mark.parametrize("view", [bytearray, memoryview])
def test_any_kind_of_bytes(kind: Kind, accelerated: bool, view: Callable[[bytes], bytes]) -> None:
    assert decode([view(kind.compress(DATA))], accelerated=accelerated) == DATA


@pytest.mark.parametrize(
    ("name", "size"),
    [("base.zfs.gz", 3_797_648), ("incremental.zfs.xz", 623_696), ("zvol.zfs.bz2", 566_456)],
)
def test_real_images(name: str, size: int, accelerated: bool) -> None:
    stream = decode(pieces_of((FIXTURES / name).read_bytes(), 1 << 20), accelerated=accelerated)
    assert len(stream) == size
    # A stream that is not compressed passes as it is.
    assert decode(pieces_of(stream, 100_000), accelerated=accelerated) == stream


@every_kind
@pytest.mark.parametrize("zeros", [4, 512, 100_000])
def test_padding(kind: Kind, accelerated: bool, zeros: int) -> None:
    file = kind.compress(SMALL) + bytes(zeros)
    if kind.codec == "zstd":
        with pytest.raises(UncompressionError, match="garbage"):
            decode([file], accelerated=accelerated)
    else:
        assert decode([file], accelerated=accelerated) == SMALL


@every_kind
def test_padding_between_parts(kind: Kind, accelerated: bool) -> None:
    """Only xz says that there may be any; gzip and bzip2 as programs pass over what follows zeros."""
    file = kind.compress(SMALL) + bytes(4) + kind.compress(SMALL)
    if kind.codec == "xz":
        assert decode([file], accelerated=accelerated) == SMALL + SMALL
    else:
        with pytest.raises(UncompressionError, match="garbage"):
            decode([file], accelerated=accelerated)


def test_meter_counts_what_went_in_and_came_out(accelerated: bool) -> None:
    file = gzip.compress(DATA)
    meter = Meter(decompress_limits())
    for _ in decompressed(pieces_of(file, 10_000), meter, accelerated=accelerated):
        assert 0 < meter.compressed <= len(file)
    assert (meter.compressed, meter.stream) == (len(file), len(DATA))


# -- files that are not --------------------------------------------------------------------------------------


@every_kind
def test_cut_short_anywhere(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(SMALL)
    # From where it is clear what it is.
    for size in range(10, len(file)):
        with pytest.raises(UncompressionError, match="ends in the middle"):
            decode([file[:size]], accelerated=accelerated)


@every_kind
def test_cut_short_in_a_later_part(kind: Kind, accelerated: bool) -> None:
    first, second = kind.compress(DATA), kind.compress(SMALL)
    for size in (1, 2, 3, 7, 20, len(second) - 1):
        with pytest.raises(UncompressionError, match="ends in the middle"):
            decode([first + second[:size]], accelerated=accelerated)


@every_kind
def test_a_flipped_bit_is_noticed_or_does_not_matter(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(SMALL)
    noticed = 0
    for at in range(len(file)):
        damaged = bytearray(file)
        damaged[at] ^= 1 << at % 8
        try:
            decoded = decode([bytes(damaged)], accelerated=accelerated)
        except UncompressionError:
            noticed += 1
        else:
            assert decoded == SMALL
    # gzip's time and operating system, and bits of padding, mean nothing here.
    assert noticed >= len(file) - 8


@every_kind
def test_a_flipped_bit_in_a_large_file_is_noticed(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(DATA)

    @given(bit=st.integers(100 * 8, len(file) * 8 - 9))
    @same_fixture
    def check(bit: int) -> None:
        damaged = bytearray(file)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UncompressionError, match=kind.codec):
            decode(pieces_of(bytes(damaged), 50_000), accelerated=accelerated)

    check()


@every_kind
@pytest.mark.parametrize("garbage", [b"x", b"garbage", b"\0\0\0\0\0x", b"<html>" * 100])
def test_garbage_at_the_end(kind: Kind, accelerated: bool, garbage: bytes) -> None:
    with pytest.raises(UncompressionError, match=r"garbage|padding"):
        decode([kind.compress(SMALL), garbage], accelerated=accelerated)


@every_kind
def test_anything_after_the_magic_number(kind: Kind, accelerated: bool) -> None:
    start = kind.compress(DATA)[:14]

    @given(rest=st.binary(max_size=2000))
    @same_fixture
    def check(rest: bytes) -> None:
        with pytest.raises(UncompressionError):
            decode([start + rest], accelerated=accelerated)

    check()


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_damage_is_told_in_imgadms_words(name: str, accelerated: bool) -> None:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    damaged = bytearray(kind.compress(DATA))
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(UncompressionError) as caught:
        decode([bytes(damaged)], accelerated=accelerated)
    assert caught.value.message.startswith(f"{name} uncompression error while importing: ")
    assert caught.value.message.endswith("(corrupt compressed file)")
    assert caught.value.hint == "usually indicates a network error while downloading, try again"


# -- files that are meant to hurt ----------------------------------------------------------------------------


@every_kind
def test_a_bomb_by_its_ratio(kind: Kind, accelerated: bool) -> None:
    limits = decompress_limits(ratio_from=1 << 20, max_ratio=20)
    with pytest.raises(UncompressionError, match="more than 20 times"):
        decode(pieces_of(kind.compress(BOMB), 1000), limits, accelerated=accelerated)


@every_kind
def test_a_bomb_by_its_size(kind: Kind, accelerated: bool) -> None:
    pieces: list[bytes | memoryview] = []
    stream = decompressed(
        [kind.compress(BOMB)], Meter(decompress_limits(max_image=300_000)), accelerated=accelerated
    )
    with pytest.raises(UncompressionError, match="larger than 300000 bytes"):
        pieces.extend(stream)
    assert sum(map(len, pieces)) <= 300_000


@every_kind
def test_the_start_may_be_empty(kind: Kind, accelerated: bool) -> None:
    limits = decompress_limits(ratio_from=1 << 20, max_ratio=20)
    assert decode([kind.compress(bytes(1 << 20))], limits, accelerated=accelerated) == bytes(1 << 20)


@every_kind
def test_pieces_and_memory_are_bounded(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(ZEROS)
    largest = 0
    tracemalloc.start()
    try:
        for piece in decompressed([file], Meter(decompress_limits()), accelerated=accelerated):
            largest = max(largest, len(piece))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert largest <= 1 << 20
    # Some units in flight, each a few pieces ahead; and up to three decoders, xz's with 8 MiB each.
    assert peak < len(ZEROS) * 3 // 4


@every_kind
@pytest.mark.parametrize("content", [b"", b"x"])
def test_parts_with_next_to_nothing_in_them(kind: Kind, accelerated: bool, content: bytes) -> None:
    """8 MB of empty zstd frames took 16 seconds, and as many tiny xz streams of blocks 20."""
    seen = 0

    def blocks() -> Iterator[bytes]:
        nonlocal seen
        for _ in range(100_000):
            seen += 1
            yield kind.compress(content)

    with pytest.raises(UncompressionError, match="too many parts"):
        decode(blocks(), accelerated=accelerated)
    assert seen < 5000


@every_kind
def test_many_parts_that_are_worth_it(kind: Kind, accelerated: bool) -> None:
    limits = decompress_limits(free_steps=100 * PART)
    data = DATA[:5000]
    assert decode([kind.compress(data) * 1000], limits, accelerated=accelerated) == data * 1000


def test_skippable_zstd_frames_without_end(accelerated: bool) -> None:
    with pytest.raises(UncompressionError, match="too many parts"):
        decode([b"\x5a\x2a\x4d\x18" + bytes(4)] * 10_000, accelerated=accelerated)


def test_a_zstd_frame_of_empty_blocks(accelerated: bool) -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\0\x50" + bytes(3) * 100_000 + b"\1\0\0"
    with pytest.raises(UncompressionError, match="too many parts"):
        decode([frame], accelerated=accelerated)
    small = b"\x28\xb5\x2f\xfd" + b"\0\x50" + bytes(3) * 50_000 + b"\1\0\0"
    assert decode([small], accelerated=accelerated) == b""


def test_tiny_xz_blocks_after_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are cut out one by one; liblzma by itself takes them in no time."""
    monkeypatch.setattr("imgstored.transfer.decompress.workers_for", lambda limit: min(limit, 3))
    units = [next(iter(xz.units(Feed([xz_in_blocks(data)])))) for data in (DATA[:20_000], b"x")]
    first, tiny = (
        bytes(unit[12 : -(12 + (int.from_bytes(unit[-8:-4], "little") + 1) * 4)]) for unit in units
    )
    with no_threads_left(), pytest.raises(UncompressionError, match="too many parts"):
        decode([units[0][:12] + first, tiny * 10_000])


@pytest.mark.parametrize("name", ["xz", "xz-blocks"])
def test_xz_that_needs_much_memory(name: str, accelerated: bool) -> None:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    with pytest.raises(UncompressionError, match=r"[Mm]emory"):
        decode([kind.compress(DATA)], decompress_limits(decoder_memory=1 << 20), accelerated=accelerated)


def test_zstd_with_a_large_window(accelerated: bool) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    file = writer.compress(DATA) + writer.flush()
    assert decode([file], decompress_limits(decoder_memory=1 << 24), accelerated=accelerated) == DATA
    with pytest.raises(UncompressionError, match="zstd"):
        decode([file], decompress_limits(decoder_memory=1 << 23), accelerated=accelerated)


# -- stopping ------------------------------------------------------------------------------------------------


@every_kind
def test_an_error_of_the_source_passes_through(kind: Kind, accelerated: bool) -> None:
    file = kind.compress(DATA)

    def failing() -> Iterator[bytes]:
        yield from pieces_of(file[: len(file) // 2], 1000)
        raise DownloadError("the source broke off")

    with pytest.raises(DownloadError, match="broke off"), no_threads_left():
        decode(failing(), accelerated=accelerated)


@every_kind
def test_the_source_is_read_to_its_end_before_the_stream_ends(kind: Kind, accelerated: bool) -> None:
    def wrong_checksum() -> Iterator[bytes]:
        yield kind.compress(SMALL)
        raise DownloadError("another checksum")

    with pytest.raises(DownloadError, match="another checksum"):
        decode(wrong_checksum(), accelerated=accelerated)


@every_kind
def test_closing_early_ends_all_threads(kind: Kind, accelerated: bool) -> None:
    stream = decompressed(
        pieces_of(kind.compress(DATA) * 5, 1000), Meter(decompress_limits()), accelerated=accelerated
    )
    assert next(stream)
    # The fixture sees whether threads are left.
    stream.close()
    assert list(stream) == []


# -- what is not installed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", gzip.compress(SMALL)], ids=["first", "second"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_gzip_flags_that_are_reserved(accelerated: bool, size: int, before: bytes) -> None:
    member = bytearray(gzip.compress(SMALL))
    member[3] |= 0x20
    with pytest.raises(UncompressionError):
        decode(pieces_of(before + bytes(member), size), accelerated=accelerated)


@pytest.mark.parametrize("before", [b"", gzip.compress(SMALL)], ids=["first", "second"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_checksum_of_a_gzip_header(accelerated: bool, size: int, before: bytes) -> None:
    """ISA-L passes over it."""
    member = gzip.compress(SMALL)
    head = member[:3] + b"\x02" + member[4:10]
    checksum = zlib.crc32(head) & 0xFFFF
    whole, damaged = (
        before + head + struct.pack("<H", each) + member[10:] for each in (checksum, checksum ^ 1)
    )
    assert decode(pieces_of(whole, size), accelerated=accelerated) == (SMALL * 2 if before else SMALL)
    with pytest.raises(UncompressionError):
        decode(pieces_of(damaged, size), accelerated=accelerated)


def test_gzip_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert decode([gzip.compress(DATA)]) == DATA


def test_zstd_without_zstandard_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (kind,) = [kind for kind in KINDS if kind.name == "zstd"]
    with pytest.raises(UncompressionError, match="zstd") as caught:
        decode([kind.compress(DATA)])
    assert "zstandard" in caught.value.hint
