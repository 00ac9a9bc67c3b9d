from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.zstream import fletcher4
from imgstored.zstream.fletcher4 import (
    Arithmetic,
    Buffer,
    ByteOrder,
    Fletcher4,
    Library,
    Plain,
    Sums,
    WithNumPy,
    combine,
)
from tests.support.streams import random_content

WORDS = st.binary(max_size=600).map(lambda data: data[: len(data) // 4 * 4])
SUMS = st.tuples(*[st.integers(0, 2**64 - 1)] * 4)
ORDERS = st.sampled_from(["<", ">"])


def test_known_value() -> None:
    # By hand: a = 1, 3, 6; b = 1, 4, 10; c = 1, 5, 15; d = 1, 6, 21.
    fletcher = Fletcher4()
    fletcher.update(bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))
    assert fletcher.sums == (6, 10, 15, 21)


#: The fast engines. The C library is there where ZFS is, as in the guest that has real ZFS.
ENGINES = [WithNumPy(), *([found] if (found := fletcher4.library()) else [])]
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)


@engines
@given(order=ORDERS, sums=SUMS, data=WORDS)
def test_does_the_same_as_plain_python(engine: Arithmetic, order: ByteOrder, sums: Sums, data: bytes) -> None:
    assert engine.whole(order, sums, data) == Plain().whole(order, sums, data)


@engines
@given(order=ORDERS, sums=SUMS, data=WORDS, chance=st.data())
def test_sums_on_the_way(
    engine: Arithmetic, order: ByteOrder, sums: Sums, data: bytes, chance: st.DataObject
) -> None:
    words = st.integers(1, max(1, len(data) // 4))
    places = sorted({4 * word for word in chance.draw(st.lists(words))}) if data else []
    places.append(len(data))
    noted = engine.noting(order, sums, data, places)
    assert noted == Plain().noting(order, sums, data, places)
    assert noted == [Plain().whole(order, sums, data[:place]) for place in places]


@engines
@pytest.mark.parametrize("size", [312, 8 << 10, 60 << 10, 128 << 10, 200 << 10, 300 << 10])
@pytest.mark.parametrize("order", ["<", ">"])
def test_records_of_any_size(engine: Arithmetic, order: ByteOrder, size: int) -> None:
    """From any byte on, of memory that may be read only, or also written."""
    start = (2**64 - 5, 2**63, 12345, 2**64 - 1)
    data = b"\xff" * 40_000 + b"".join(random_content(400_001, 1))
    for skipped, kind in ((0, bytes), (1, bytearray), (4, memoryview)):
        view = memoryview(data)[skipped : skipped + 400_000]
        places = [*range(280, len(view), 312 + size), len(view)]
        expected = Plain().noting(order, start, view, places)
        assert engine.noting(order, start, kind(view), places) == expected
        assert engine.whole(order, start, kind(view)) == expected[-1]


def test_the_largest_words_in_a_batch() -> None:
    """The products of matrices are exact: no sum needs more than 53 bits."""
    data = b"\xff" * (3 * 128 << 10)
    assert WithNumPy().whole("<", (0, 0, 0, 0), data) == Plain().whole("<", (0, 0, 0, 0), data)


def test_a_library_that_sums_up_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Plain):
        def __init__(self, name: str) -> None:
            if name != Library.NAMES[0]:
                raise OSError(f"{name}: cannot open shared object file")

        def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
            a, b, c, d = super().whole(byte_order, sums, data)
            return a, b, c, d ^ (byte_order == ">")

    Wrong.NAMES = Library.NAMES
    monkeypatch.setattr(fletcher4, "Library", Wrong)
    assert fletcher4.library() is None


@given(SUMS, WORDS, WORDS)
def test_two_blocks_combine(sums: Sums, first: bytes, second: bytes) -> None:
    whole = Plain().whole("<", sums, first + second)
    own = Plain().whole("<", (0, 0, 0, 0), second)
    assert combine(Plain().whole("<", sums, first), len(second) // 4, own) == whole


@pytest.mark.parametrize("data", [b"abc", b"abcde"])
def test_only_whole_words(data: Buffer) -> None:
    with pytest.raises(ValueError, match="32-bit words"):
        Fletcher4().update(data)
    with pytest.raises(ValueError, match="32-bit words"):
        Fletcher4().update_noting(data, [])
