from __future__ import annotations

import gzip
import hashlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imgstored.create import compress, layers
from imgstored.create.layers import Cutter
from imgstored.transfer.decompress import DecompressLimits
from tests.support.image_site import BASE, fixture_file

STREAM = gzip.decompress(fixture_file(BASE).read_bytes())
LIMITS = DecompressLimits(max_image=1 << 30, max_ratio=500, decoder_memory=96 << 20)


def cut(file: bytes, compression: str = "zstd", step: int = 70_001, limits: DecompressLimits | None = LIMITS):
    cutter = Cutter(compression, limits)
    for place in range(0, len(file), step):
        cutter.feed(file[place : place + step])
    assert (cutter.size, cutter.sha1) == (len(file), hashlib.sha1(file).hexdigest())
    return cutter.layers()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def made(monkeypatch) -> bytes:
    """A file as we compress it, in pieces that are small enough for a test."""
    monkeypatch.setattr(compress, "FRAME", 400_000)
    monkeypatch.setattr(layers, "FRAME", 400_000)
    return b"".join(compress.compressed([STREAM], "zstd"))


@pytest.mark.parametrize("step", [1, 70_001, 1 << 20])
def test_each_frame_of_ours_is_a_layer_that_stands_alone(made, step):
    if step == 1:
        made = made[: len(made) // 50]  # then the last frame has no end, and the file is one layer
        (whole,) = cut(made, step=step)
        assert (whole.digest, whole.size, whole.stream_offset) == (sha256(made), len(made), None)
        return
    found = cut(made, step=step)
    assert len(found) > 2
    place = offset = 0
    for layer in found:
        piece = made[place : place + layer.size]
        stream = zstandard.ZstdDecompressor().decompressobj().decompress(piece)
        assert layer.digest == sha256(piece)
        assert (layer.stream_offset, layer.stream_size) == (offset, len(stream))
        assert layer.stream_digest == sha256(stream)
        assert stream == STREAM[offset : offset + len(stream)]
        place, offset = place + layer.size, offset + len(stream)
    assert (place, offset) == (len(made), len(STREAM))


def test_small_frames_share_a_layer(monkeypatch):
    monkeypatch.setattr(layers, "FRAME", 1000)
    compressor = zstandard.ZstdCompressor()
    frames = [compressor.compress(bytes([number]) * 300) for number in range(10)]
    assert [layer.stream_size for layer in cut(b"".join(frames))] == [1200, 1200, 600]


def test_any_other_file_is_one_layer_as_it_is():
    file = fixture_file(BASE).read_bytes()
    (layer,) = cut(file, "gzip")
    assert (layer.digest, layer.size, layer.stream_offset) == (sha256(file), len(file), None)
    assert cut(b"") == []
    one = zstandard.ZstdCompressor().compress(STREAM)
    assert [each.stream_offset for each in cut(one)] == [None]
    assert [each.stream_offset for each in cut(one, limits=None)] == [None]


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(1, 100))
def test_a_damaged_file_is_one_layer(noise, place, step):
    file = zstandard.ZstdCompressor().compress(b"x" * 3000) * 3
    damaged = file[:place] + noise + file[place + 5 :]
    found = cut(damaged, step=step)
    assert sum(layer.size for layer in found) == len(damaged)


def test_a_bomb_is_not_decompressed_for_ever():
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20)) * 4
    small = DecompressLimits(max_image=1 << 20, max_ratio=10, decoder_memory=1 << 20)
    assert [layer.stream_offset for layer in cut(bomb, limits=small)] == [None]
