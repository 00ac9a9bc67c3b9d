from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import StreamError
from imgstored.zstream.nvlist import MAX_PACKED, MAX_PAIRS, pack_uint64s, unpack
from tests.support.tokens import as_values, boolean, packed, pair, string, uint64

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import ByteOrder

ORDERS: tuple[ByteOrder, ...] = ("<", ">")
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
VALUES = st.integers(0, 2**64 - 1) | NAMES | st.just(True)


def test_the_payload_of_a_resuming_begin() -> None:
    """Laid out by hand from `nvlist_t` and `nvpair_t`."""
    made = pack_uint64s({"resume_object": 0x11, "resume_offset": 0x20000}, "<")
    expected = (
        "00010000" "00000000" "01000000"
        "28000000" "0e00" "0000" "01000000" "08000000"
        "726573756d655f6f626a65637400" "0000" "1100000000000000"
        "28000000" "0e00" "0000" "01000000" "08000000"
        "726573756d655f6f666673657400" "0000" "0000020000000000"
        "00000000"
    )  # fmt: skip
    assert made.hex() == expected
    assert len(made) == 96


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_packed(order: ByteOrder) -> None:
    values = {"resume_object": 1, "resume_offset": 2**64 - 1}
    assert pack_uint64s(values, order) == as_values(values, order)


@given(st.dictionaries(NAMES, VALUES, max_size=15), st.sampled_from(ORDERS))
def test_what_is_packed_is_unpacked(pairs: dict[str, int | str | bool], order: ByteOrder) -> None:
    assert unpack(as_values(pairs, order)) == (order, pairs)


@given(st.dictionaries(NAMES, st.integers(0, 2**64 - 1), max_size=15), st.sampled_from(ORDERS))
def test_own_lists_are_unpacked(pairs: dict[str, int], order: ByteOrder) -> None:
    made = pack_uint64s(pairs, order)
    assert len(made) % 8 == 0
    assert unpack(made) == (order, pairs)


def test_other_types_are_left_out() -> None:
    """As the array in the token of a redacted stream."""
    data = packed("<", pair("<", "redact_snaps", 16, 2, bytes(16)), uint64("<", "object", 7))
    assert unpack(data) == ("<", {"object": 7})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (bytes(MAX_PACKED + 1), "not possible"),
        (b"\1" + packed("<")[1:], "native encoding"),
        (b"\0\2" + packed("<")[2:], "native encoding"),
        (packed("<")[:4] + b"\1" + packed("<")[5:], "unknown version 1"),
        (packed("<")[:-1], "cut short"),
        (packed("<", uint64("<", "x", 1))[:30], "not possible"),
        (packed("<", b"\xff\xff\xff\xff" + bytes(28)), "not possible"),
        (packed("<", b"\x10\0\0\0" + bytes(12)), "not possible"),
        (packed("<", uint64("<", "x", 1), uint64("<", "x", 1)), "two values"),
        (packed("<", *(boolean("<", str(number)) for number in range(MAX_PAIRS + 1))), "more than 64"),
        (packed("<", pair("<", "x", 19, 1, bytes(24))), "nvlist in the nvlist"),
        (packed("<", pair("<", "x", 20, 1, bytes(24))), "nvlist in the nvlist"),
        (packed("<", pair("<", "x", 8, 2, bytes(8))), "malformed value"),
        (packed("<", pair("<", "x", 8, 1, bytes(16))), "malformed value"),
        (packed("<", pair("<", "x", 1, 1, b"")), "malformed value"),
        (packed("<", pair("<", "x", 9, 1, b"x" * 8)), "malformed value"),
        (packed("<", pair("<", "x", 9, 1, b"\xff\0")), "not UTF-8"),
        (packed("<", pair("<", "x\0y", 8, 1, bytes(8))), "name is malformed"),
        (packed("<", uint64("<", "x", 1).replace(b"\2\0", b"\xff\x7f", 1)), "name is malformed"),
        (packed("<", uint64("<", "x", 1).replace(b"\2\0", b"\xff\xff", 1)), "name is malformed"),
        (packed("<", uint64("<", "x", 1).replace(b"\2\0", b"\0\0", 1)), "name is malformed"),
    ],
)
def test_what_is_no_list(data: bytes, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        unpack(data)


@given(st.binary(max_size=300))
def test_anything_may_come(data: bytes) -> None:
    with contextlib.suppress(StreamError):
        unpack(b"\0\1\0\0\0\0\0\0" + data)


WHOLE = packed("<", uint64("<", "object", 7), string("<", "toname", "a@b"), boolean("<", "embedok"))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_bytes_may_be_others(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    try:
        order, pairs = unpack(bytes(data))
    except StreamError:
        return
    assert order == "<"
    assert all(type(value) in (int, str, bool) for value in pairs.values())


@given(st.integers(0, len(WHOLE) - 1))
def test_it_may_be_cut_anywhere(length: int) -> None:
    with pytest.raises(StreamError):
        unpack(WHOLE[:length])
