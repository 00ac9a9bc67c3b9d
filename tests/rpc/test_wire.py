from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.rpc.framing import MessageLimits
from imgstored.rpc.wire import (
    MAX_ID,
    Decoder,
    Notification,
    Request,
    Response,
    bearer,
    encode_error,
    encode_in_slices,
    encode_notification,
    encode_response,
)
from tests.support.messages import encode_request

LIMITS = MessageLimits()

ids = st.integers(0, MAX_ID)
words = st.text(max_size=20)
jsonish = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
)
maps = st.dictionaries(words, jsonish, max_size=4)
messages = st.one_of(
    st.builds(Request, ids, words, maps),
    st.builds(Response, st.none() | ids, st.none() | maps, jsonish),
    st.builds(Notification, words, maps),
)


def encoded(message) -> bytes:
    match message:
        case Request():
            return encode_request(message.id, message.method, message.params)
        case Notification():
            return encode_notification(message.method, message.params)
        case _:
            return msgpack.packb([1, message.id, message.error, message.result])


def decode(data: bytes):
    decoder = Decoder(LIMITS)
    return decoder.feed(data), decoder.fault


@settings(max_examples=60)
@given(st.lists(messages, max_size=5), st.data())
def test_what_is_encoded_comes_back_however_it_is_cut_up(sent, draw):
    data = b"".join(map(encoded, sent))
    decoder, rest, received = Decoder(LIMITS), data, []
    while rest:
        size = draw.draw(st.integers(1, len(rest)))
        received += decoder.feed(rest[:size])
        rest = rest[size:]
    assert received == sent
    assert decoder.fault is None
    assert decoder.position == len(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_a_fault(data):
    decoder = Decoder(LIMITS)
    received = decoder.feed(data)
    assert all(isinstance(message, (Request, Response, Notification)) for message in received)
    assert decoder.fault is None or decoder.feed(encode_request(1, "list", {})) == []


@given(jsonish, st.data())
def test_any_values_are_messages_or_a_fault_whichever_way_they_come(value, draw):
    data = encode_request(1, "m", {"v": value})
    position = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:position] + draw.draw(st.binary(max_size=3)) + data[position + 1 :]
    whole, fault = decode(changed)
    decoder = Decoder(LIMITS)
    single = [message for byte in changed for message in decoder.feed(bytes([byte]))]
    # NaN is not equal to itself, its text is.
    assert repr(single) == repr(whole)
    assert str(decoder.fault) == str(fault)


@pytest.mark.parametrize(
    "value",
    [
        [],
        [0],
        [0, 1, "m"],
        [0, 1, "m", {}],
        [0, 1, "m", [{}, {}]],
        [0, 1, "m", ["text"]],
        [0, 1, "m", [{}], None],
        [0, 1, 2, []],
        [0, -1, "m", []],
        [0, 1 << 32, "m", []],
        [0, True, "m", []],
        [0, None, "m", []],
        [0, 1.0, "m", []],
        [False, 1, "m", []],
        [True, 1, None, None],
        [1, "1", None, None],
        [1, 1, "error", None],
        [2, "m"],
        [2, 1, []],
        [3, 1, "m", []],
        ["0", 1, "m", []],
    ],
)
def test_what_is_no_message_is_a_fault(value):
    received, fault = decode(msgpack.packb(value))
    assert received == []
    assert fault is not None
    assert fault.code == "Usage"


def test_parameters_may_be_left_out():
    assert decode(msgpack.packb([0, MAX_ID, "list", []])) == ([Request(MAX_ID, "list", {})], None)


def test_a_string_that_is_not_utf8_is_a_fault():
    received, fault = decode(encode_request(1, "list", {}) + b"\x94\x00\x01\xa1\xff\x90")
    assert received == [Request(1, "list", {})]
    assert "UTF-8" in str(fault)


def test_an_answer_may_have_what_only_json_can_say():
    (answer,), _ = decode(encode_response(1, {"huge": 1 << 70, "half": "a\ud800b", "pair": ("x", 1)}))
    assert answer == Response(1, None, {"huge": float(1 << 70), "half": "a?b", "pair": ["x", 1]})


@pytest.mark.parametrize("result", [object(), {1, 2}, 10**400])
def test_an_answer_that_cannot_be_said_raises(result):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        encode_response(1, result)


def test_an_error_about_the_connection_has_no_id():
    assert decode(encode_error(None, {"code": "Usage"})) == ([Response(None, {"code": "Usage"}, None)], None)


@pytest.mark.parametrize(
    ("starts", "unfinished", "since", "expected"),
    [
        ([], None, 0, None),
        ([0], None, 0, 0),
        ([0, 10], None, 0, 10),
        ([0, 10], 20, 0, 20),
        ([0], 10, 5, 10),
        ([0], None, 5, None),
        ([], 0, 5, None),
    ],
)
def test_a_descriptor_belongs_to_the_last_message_that_begins_where_it_came(
    starts, unfinished, since, expected
):
    assert bearer([Request(1, "m", {}, start) for start in starts], unfinished, since) == expected


# -- large answers in slices ---------------------------------------------------------------------------------

large = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=100) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=200,
)


@given(st.integers(0, MAX_ID), large)
def test_slices_are_the_same_bytes(id_, result):
    assert b"".join(encode_in_slices(id_, result)) == encode_response(id_, result)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_slice_is_small_however_large_the_answer_is(wrapped):
    images = [{"manifest": {"description": "x" * 1000}} for _ in range(5000)]
    result = {"images": images, "problems": []} if wrapped else images
    slices = [*encode_in_slices(1, result)]
    assert b"".join(slices) == encode_response(1, result)
    assert max(map(len, slices)) < 70_000
    assert len(slices) > 70
