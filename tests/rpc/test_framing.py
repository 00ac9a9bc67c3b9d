from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.rpc.framing import Framer, MessageLimits
from imgstored.rpc.wire import Decoder

LIMITS = MessageLimits()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
)
arrays = st.lists(values, max_size=5)


def faults(data: bytes, limits: MessageLimits = LIMITS) -> str | None:
    framer = Framer(limits)
    framer.feed(data)
    return None if framer.fault is None else framer.fault.message


@settings(max_examples=30)
@given(st.lists(arrays, max_size=5))
def test_what_msgpack_writes_is_cut_where_msgpack_would(messages):
    framer = Framer(LIMITS)
    packed = [msgpack.packb(message) for message in messages]
    frames = framer.feed(b"".join(packed))
    assert framer.fault is None
    assert [frame.data for frame in frames] == packed
    assert [frame.start for frame in frames] == [
        sum(map(len, packed[:index])) for index in range(len(packed))
    ]
    assert framer.unfinished is None


@given(st.binary(max_size=200), st.data())
def test_how_it_is_cut_up_changes_nothing(data, draw):
    whole = Framer(LIMITS)
    expected = whole.feed(data)
    pieces, rest = Framer(LIMITS), data
    frames = []
    while rest:
        size = draw.draw(st.integers(1, len(rest)))
        frames += pieces.feed(rest[:size])
        rest = rest[size:]
    assert frames == expected
    assert str(pieces.fault) == str(whole.fault)
    assert pieces.fault is not None or pieces.unfinished == whole.unfinished


@given(st.integers(1, 40))
def test_depth(depth):
    nested: object = 1
    for _ in range(depth):
        nested = [nested]
    fault = faults(msgpack.packb(nested))
    assert (fault is None) == (depth <= 32)
    assert fault is None or "nested deeper than 32" in fault


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_each_form_of_an_array_is_read(count):
    framer = Framer(LIMITS)
    packed = msgpack.packb([None] * count)
    assert [frame.data for frame in framer.feed(packed)] == [packed]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"G", "a message is an array"),
        (b"\x80", "a message is an array"),
        (b"\x91\xc1", "extension types"),
        (b"\x91\xc4\x00", "extension types"),
        (b"\x91\xd6\xff\x00\x00\x00\x00", "extension types"),
        (b"\x91\x81\x01\x01", "keys are strings"),
        (b"\x91\x82\xa1a\x01\xc0\x01", "keys are strings"),
        (b"\xdd\xff\xff\xff\xff", "more than 65536 values"),
        (b"\xdd\x00\x01\x00\x01", "more than 65536 values"),
        (b"\x91\xdf\x00\x00\x80\x00", "more than 65536 values"),
        (b"\x91\xdb\xff\xff\xff\xff", "more than 4194304 bytes"),
        (b"\x91\xdb\x00\x3f\xff\xfb", "more than 4194304 bytes"),
    ],
)
def test_what_cannot_be_accepted_is_refused_at_its_header(data, words):
    assert words in (faults(data) or "")


def test_a_message_may_be_as_large_as_the_limit():
    packed = b"\x91\xdb" + (LIMITS.size - 6).to_bytes(4, "big") + bytes(LIMITS.size - 6)
    framer = Framer(LIMITS)
    assert [frame.data for frame in framer.feed(packed)] == [packed]


def test_nothing_comes_out_after_a_fault():
    framer = Framer(LIMITS)
    assert [frame.data for frame in framer.feed(b"\x90\x01\x90")] == [b"\x90"]
    assert framer.feed(b"\x90") == []
    assert framer.fault is not None


def test_a_message_in_drops_is_counted_as_one():
    limits = MessageLimits(size=1000, values=10_000)
    framer = Framer(limits)
    framer.feed(b"\xdc\x27\x10")
    fed = 0
    while framer.fault is None:
        framer.feed(b"\x00")
        fed += 1
    assert fed == 1000 - 3 + 1
    assert "more than 1000 bytes" in str(framer.fault)


@pytest.mark.parametrize("inner", [b"\x90", b"\x80", b"\xdc\x00\x00", b"\xdd\x00\x00\x00\x00", b"\xa0"])
def test_what_is_small_on_the_wire_and_large_in_memory_is_bounded(inner):
    row = b"\xdc\x00\xff" + inner * 255
    table = b"\x91\xdc%b" + row * 400
    assert "more than 65536 values" in str(faults(table % (400).to_bytes(2, "big")))
    tracemalloc.start()
    try:
        decoder = Decoder(LIMITS)
        decoder.feed(table % (255).to_bytes(2, "big"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "neither request nor response" in str(decoder.fault)
    assert peak < 10 << 20


def test_a_long_string_in_small_pieces_costs_linear_time_and_its_own_size():
    data = b"\x91\xdb" + (3 << 20).to_bytes(4, "big") + b"x" * (3 << 20)
    framer = Framer(LIMITS)
    tracemalloc.start()
    try:
        frames = [
            frame for start in range(0, len(data), 64) for frame in framer.feed(data[start : start + 64])
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frames) == 1
    assert peak < 3 * len(data)
