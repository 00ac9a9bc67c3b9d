"""What is known of a stream, and what of its file is then fetched."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.delta import known as known_module
from imgstored.delta.index import HASH_SIZE, IndexFaultError, hash_of, parse_index
from imgstored.delta.known import EXTENT, GAP, Known
from tests.support.deltas import files, indexed, tree

CONTENTS = [content.ljust(len(content) + -len(content) % 512, b"\0")[: 8 << 10] for content in files(120)]


@pytest.fixture(scope="module")
def index():
    # The first file is there three times.
    return parse_index(indexed(tree([*CONTENTS, CONTENTS[0], CONTENTS[0]], guid=7)).index)


def test_payloads_with_the_same_content_are_there_together(index):
    known = Known(index)
    digest, size = hash_of(CONTENTS[0]), len(CONTENTS[0])
    assert known.wanted(digest, size) == [0, index.payloads - 2, index.payloads - 1]
    assert known.wanted(digest, size + 4) == []
    assert known.wanted(bytes(HASH_SIZE), size) == []
    known.add(known.wanted(digest, size))
    assert known.wanted(digest, size) == []
    assert known.size == 3 * size
    assert known.complete == 1
    assert next(known.missing()) == 1


def test_nothing_is_fetched_when_all_is_there(index):
    known = Known(index)
    for content in CONTENTS:
        known.add(known.wanted(hash_of(content), len(content)))
    assert known.complete == index.payloads
    assert known.extents() == []


@pytest.mark.parametrize("size", [EXTENT, 1], ids=["frames are small", "frames are larger than extents"])
@given(seed=st.integers(0, 1 << 32))
def test_the_extents_have_all_that_is_missing_and_little_else(index, size, seed):
    chance = random.Random(seed)
    share = chance.random()
    known = Known(index)
    for content in CONTENTS:
        if chance.random() < share:
            known.add(known.wanted(hash_of(content), len(content)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_module, "EXTENT", size)
        extents = known.extents()
    frames = [frame for extent in extents for frame in range(extent.first, extent.stop)]
    wanted = {index.frame_of(number) for number in known.missing()}
    assert wanted <= set(frames)
    assert frames == sorted(set(frames))
    surplus = sum(index.file_at[frame + 1] - index.file_at[frame] for frame in set(frames) - wanted)
    assert surplus <= GAP * len(wanted)
    for extent in extents:
        assert (extent.start, extent.end) == (index.file_at[extent.first], index.file_at[extent.stop])
        assert extent.end - extent.start <= size or extent.stop == extent.first + 1
        assert {extent.first, extent.stop - 1} <= wanted


def test_one_hash_of_two_lengths_is_refused(index):
    """Whoever wrote that wants one payload to be written over another one."""
    index = parse_index(indexed(tree([b"a" * 1024, b"b" * 2048], guid=7)).index)
    index.hashes = memoryview(index.hash_of(0) * 2)
    with pytest.raises(IndexFaultError, match="different lengths"):
        Known(index)
