from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import StreamError
from imgstored.zstream.nvlist import (
    MAX_DEPTH,
    MAX_PACKED,
    MAX_PAIRS,
    Tree,
    pack,
    pack_uint64s,
    unpack,
    unpack_tree,
)
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


# -- lists of lists ------------------------------------------------------------------------------------------

TEXTS = st.binary(max_size=20).filter(lambda text: b"\0" not in text)
TREES = st.recursive(
    st.dictionaries(TEXTS, st.integers(0, 2**64 - 1) | TEXTS | st.booleans() | st.none(), max_size=5),
    lambda lists: st.dictionaries(TEXTS, lists | TEXTS, max_size=4),
    max_leaves=8,
)


@given(TREES, st.sampled_from(ORDERS))
def test_trees_are_packed_and_unpacked(tree: dict[bytes, Tree], order: ByteOrder) -> None:
    assert unpack_tree(pack(tree, order)) == tree


def test_a_list_in_a_list() -> None:
    """As libnvpair 2.1 packs it: `{argv: {dataset: "zones/x", known: {}}, yes: true, there}`."""
    made = pack({b"argv": {b"dataset": b"zones/x", b"known": {}}, b"yes": True, b"there": None}, "<")
    assert made.hex() == PACKED_BY_LIBNVPAIR
    assert unpack_tree(made)[b"argv"] == {b"dataset": b"zones/x", b"known": {}}


PACKED_BY_LIBNVPAIR = (
    "000100000000000001000000300000000500000001000000130000006172677600000000000000000100000000000000"
    "0000000000000000000000002000000008000000010000000900000064617461736574007a6f6e65732f780030000000"
    "0600000001000000130000006b6e6f776e00000000000000010000000000000000000000000000000000000000000000"
    "000000002000000004000000010000001500000079657300000000000100000000000000180000000600000000000000"
    "01000000746865726500000000000000"
)


def test_numbers_of_the_kernel() -> None:
    data = packed(
        "<",
        pair("<", "guid", 7, 1, (-5).to_bytes(8, "little", signed=True)),
        pair("<", "failed", 5, 1, (-16).to_bytes(4, "little", signed=True) + bytes(4)),
        uint64("<", "held", 2**63),
        pair("<", "no", 21, 1, bytes(8)),
    )
    assert unpack_tree(data) == {b"guid": -5, b"failed": -16, b"held": 2**63, b"no": False}


@pytest.mark.parametrize("tree", [{b"x\0y": 1}, {b"x": b"a\0b"}, {b"x": {b"y": -1}}, {b"x": 1 << 64}])
def test_what_cannot_be_packed(tree: dict[bytes, Tree]) -> None:
    with pytest.raises(ValueError, match=r"NUL|uint64"):
        pack(tree, "<")


def deep(levels: int) -> dict[bytes, Tree]:
    return {b"x": deep(levels - 1)} if levels > 1 else {}


def test_how_deep_it_may_be() -> None:
    assert unpack_tree(pack(deep(MAX_DEPTH), "<")) == deep(MAX_DEPTH)
    with pytest.raises(StreamError, match="more than 32 lists in each other"):
        unpack_tree(pack(deep(MAX_DEPTH + 1), "<"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\1" + bytes(20), "native encoding"),
        (packed("<", pair("<", "x", 19, 1, bytes(8))), "type 19"),
        (packed("<", pair("<", "x", 19, 1, bytes(24)))[:-4], "cut short"),
        (packed("<", pair("<", "x", 20, 1, bytes(32))), "type 20"),
        (packed("<", pair("<", "x", 18, 1, bytes(8))), "type 18"),
        (packed("<", pair("<", "x", 7, 2, bytes(16))), "type 7"),
        (packed("<", pair("<", "x", 9, 1, b"x" * 8)), "type 9"),
        (packed("<", pair("<", "x", 1, 1, b"")), "type 1 "),
    ],
)
def test_what_is_no_tree(data: bytes, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        unpack_tree(data)


WHOLE_TREE = pack({b"return": {b"zones/x": {b"guid": 7, b"type": b"volume", b"clones": {}}, b"y": True}}, "<")


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE_TREE) - 1), st.integers(0, 255)), max_size=4))
def test_any_bytes_of_a_tree_may_be_others(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE_TREE)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(StreamError):
        unpack_tree(bytes(data))


@given(st.integers(0, len(WHOLE_TREE) - 1))
def test_a_tree_may_be_cut_anywhere(length: int) -> None:
    with pytest.raises(StreamError):
        unpack_tree(WHOLE_TREE[:length])
