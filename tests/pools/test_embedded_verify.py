"""Checking an image takes no memory for each of its records, of which a small file may have very many."""

from __future__ import annotations

import tracemalloc

import pytest

from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import ZVOL
from tests.support.streams import BLOCK, StreamWriter, in_pieces, stream_of

CLONE = "33333333-aaaa-4bbb-8ccc-000000000001"


def base(blocks: int) -> bytes:
    """A volume with nothing on it."""
    return b"".join(stream_of([], guid=1, objset="volume", volume_size=2 * blocks * BLOCK))


def incremental(blocks: int) -> bytes:
    """Frees each second block: what is between them is as in the origin."""
    writer = StreamWriter(guid=2)
    parts = [writer.begin(fromguid=1, objset=3), writer.object(1, kind=23)]
    parts += [writer.free(1, 2 * number * BLOCK, BLOCK) for number in range(blocks)]
    parts += [writer.object(2, kind=24, block_size=512), writer.volume_size(2 * blocks * BLOCK), writer.end()]
    return b"".join(parts)


def peak_of_a_check(folder, blocks: int) -> int:
    pool = EmbeddedPool("zones", folder)
    try:
        for uuid, stream, origin in ((ZVOL, base(blocks), None), (CLONE, incremental(blocks), ZVOL)):
            pool.receive(uuid, in_pieces(stream), origin=origin)
            pool.publish(uuid)
        tracemalloc.start()
        try:
            assert pool.check(CLONE, lambda done: None).damaged is None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    finally:
        pool.close()


@pytest.mark.slow
def test_free_records_of_a_volume(tmp_path):
    few, many = (peak_of_a_check(tmp_path / str(blocks), blocks) for blocks in (20_000, 40_000))
    assert many < 1.1 * few
