from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.zstream.fletcher4 import Buffer, ByteOrder, Fletcher4, Plain, Sums, WithNumPy, combine
from tests.support.streams import random_content

WORDS = st.binary(max_size=600).map(lambda data: data[: len(data) // 4 * 4])
SUMS = st.tuples(*[st.integers(0, 2**64 - 1)] * 4)
ORDERS = st.sampled_from(["<", ">"])


def test_known_value() -> None:
    # By hand: a = 1, 3, 6; b = 1, 4, 10; c = 1, 5, 15; d = 1, 6, 21.
    fletcher = Fletcher4()
    fletcher.update(bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))
    assert fletcher.sums == (6, 10, 15, 21)


@given(ORDERS, SUMS, WORDS)
def test_numpy_does_the_same_as_plain_python(order: ByteOrder, sums: Sums, data: bytes) -> None:
    assert WithNumPy().whole(order, sums, data) == Plain().whole(order, sums, data)


@given(ORDERS, SUMS, WORDS, st.data())
def test_sums_on_the_way(order: ByteOrder, sums: Sums, data: bytes, chance: st.DataObject) -> None:
    words = st.integers(1, max(1, len(data) // 4))
    places = sorted({4 * word for word in chance.draw(st.lists(words))}) if data else []
    places.append(len(data))
    noted = WithNumPy().noting(order, sums, data, places)
    assert noted == Plain().noting(order, sums, data, places)
    assert noted == [Plain().whole(order, sums, data[:place]) for place in places]


@given(SUMS, WORDS, WORDS)
def test_two_blocks_combine(sums: Sums, first: bytes, second: bytes) -> None:
    whole = Plain().whole("<", sums, first + second)
    own = Plain().whole("<", (0, 0, 0, 0), second)
    assert combine(Plain().whole("<", sums, first), len(second) // 4, own) == whole


def test_blocks_larger_than_a_batch() -> None:
    data = b"".join(random_content(300_000, 1))
    start = (2**64 - 5, 2**63, 12345, 2**64 - 1)
    assert WithNumPy().whole(">", start, data) == Plain().whole(">", start, data)


@pytest.mark.parametrize("data", [b"abc", b"abcde"])
def test_only_whole_words(data: Buffer) -> None:
    with pytest.raises(ValueError, match="32-bit words"):
        Fletcher4().update(data)
    with pytest.raises(ValueError, match="32-bit words"):
        Fletcher4().update_noting(data, [])
