from __future__ import annotations

import gzip
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imgstored.create import compress
from imgstored.create.frames import in_frames
from imgstored.zstream.reader import StreamReader
from tests.support.image_site import BASE, fixture_file

STREAM = gzip.decompress(fixture_file(BASE).read_bytes())
NOISE = random.Random(1).randbytes(300_000)


def cut(data: bytes, size: int, step: int) -> list[bytes]:
    pieces, piece = [], b""
    for block, ends in in_frames((data[place : place + step] for place in range(0, len(data), step)), size):
        piece += block
        if ends:
            pieces.append(piece)
            piece = b""
    return [*pieces, piece] if piece else pieces


@pytest.mark.parametrize("step", [1000, 70_001, 1 << 20])
@pytest.mark.parametrize("size", [1, 5000, 400_000])
def test_pieces_are_whole_records(size, step):
    pieces = cut(STREAM, size, step)
    assert b"".join(pieces) == STREAM
    assert all(len(piece) >= size for piece in pieces[:-1])
    assert len(pieces) > 1
    reader = StreamReader()
    for place, piece in enumerate(pieces, 1):
        reader.records(piece)
        assert reader.offset == sum(map(len, pieces[:place]))
    reader.finish()
    # However the bytes come, the same stream has the same pieces.
    assert pieces == cut(STREAM, size, 4096)


@given(st.integers(1, 100_000), st.integers(1, 50_000))
def test_what_is_no_stream_is_cut_too(size, step):
    pieces = cut(NOISE, max(size, 1000), max(step, 500))
    assert b"".join(pieces) == NOISE
    assert {len(piece) for piece in pieces[:-1]} <= {max(size, 1000)}


def test_a_damaged_stream_is_cut_as_well_as_can_be():
    data = STREAM[:100_000] + NOISE
    assert b"".join(cut(data, 5000, 7000)) == data
    assert len(cut(data, 5000, 7000)) > 50


def test_each_piece_is_a_frame_of_zstd(monkeypatch):
    monkeypatch.setattr(compress, "FRAME", 400_000)
    made = b"".join(compress.compressed([STREAM[:777], STREAM[777:]], "zstd", 2))
    frames = []
    while made:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        frames.append(decoder.decompress(made))
        made = decoder.unused_data
    assert frames == cut(STREAM, 400_000, 1 << 20)
    assert b"".join(compress.compressed([], "zstd")) != b""
