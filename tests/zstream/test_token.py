from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import ResumeError
from imgstored.zstream.records import Feature
from imgstored.zstream.token import MAX_TOKEN, ResumePoint, ResumeToken, parse_token
from tests.support.tokens import as_values, packed, pair, token_around, token_of, uint64

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import ByteOrder

NUMBERS = st.integers(0, 2**64 - 1)
ORDERS: tuple[ByteOrder, ...] = ("<", ">")
TOKEN = token_of(object=7, offset=1 << 20, bytes=5_000_000, toguid=2**64 - 3, flags=("embedok",))


def test_what_a_token_says() -> None:
    assert parse_token(TOKEN) == ResumeToken(
        point=ResumePoint(
            object=7,
            offset=1 << 20,
            toguid=2**64 - 3,
            fromguid=0,
            features=Feature.EMBED_DATA,
            byte_order="<",
        ),
        bytes=5_000_000,
        toname="zones/made@final",
    )


@given(
    order=st.sampled_from(ORDERS),
    numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    toname=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=255),
    flags=st.sets(st.sampled_from(["largeblockok", "embedok", "compressok", "rawok"])),
)
def test_any_token(
    order: ByteOrder, numbers: tuple[int, int, int, int, int], toname: str, flags: set[str]
) -> None:
    number, offset, read, toguid, fromguid = numbers
    text = token_of(
        order,
        object=number,
        offset=offset,
        bytes=read,
        toguid=toguid,
        fromguid=fromguid,
        toname=toname,
        flags=tuple(sorted(flags)),
    )
    token = parse_token(text)
    assert (token.point.object, token.point.offset, token.bytes, token.toname) == (
        number, offset, read, toname,
    )  # fmt: skip
    assert (token.point.toguid, token.point.fromguid, token.point.byte_order) == (toguid, fromguid, order)
    bits = {"largeblockok": 1 << 19, "embedok": 1 << 16, "compressok": 1 << 22, "rawok": 1 << 24}
    assert token.point.features == sum(bits[flag] for flag in flags)


def test_pairs_of_later_versions() -> None:
    text = token_around("<", packed("<", *map_of("<"), pair("<", "redact_snaps", 16, 2, bytes(16))))
    assert parse_token(text).point.object == 1


def map_of(order: ByteOrder) -> list[bytes]:
    return [uint64(order, name, 1) for name in ("object", "offset", "bytes", "toguid")]


COMPRESSED = zlib.compress(packed("<", *map_of("<")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "CHECKSUM-LENGTH"),
        ("-", "CHECKSUM-LENGTH"),
        ("2" + TOKEN[1:], "CHECKSUM-LENGTH"),
        (TOKEN + "\n", "CHECKSUM-LENGTH"),
        (TOKEN[:-1], "CHECKSUM-LENGTH"),
        (TOKEN + "0" * MAX_TOKEN, "CHECKSUM-LENGTH"),
        (TOKEN[:-8], "checksum is wrong"),
        (TOKEN.replace("1-", "1-1", 1), "checksum is wrong"),
        (token_around("<", packed("<", *map_of("<")), length=5), "length that it states"),
        (token_around("<", bytes(1 << 20)), "length that it states"),
        (token_around("<", b""), "0 bytes"),
        (token_around("<", b"<html>" * 9), "native encoding"),
        (token_around("<", packed("<", *map_of("<")[1:])), "says no object"),
        (token_around("<", packed("<", *map_of("<")[:-1])), "says no toguid"),
        (token_around("<", as_values({"object": True}, "<")), "says no object"),
        (token_around("<", as_values({"object": "1"}, "<")), "says no object"),
        (token_around("<", packed("<", *map_of("<"), uint64("<", "toname", 1))), "says no name"),
        (token_around("<", packed("<", *map_of("<"), pair("<", "fromguid", 1, 0, b""))), "no fromguid"),
        ("1-0-0-00", "length that it states"),
        ("1-4030201-0-01020304", "Error -"),
    ],
)
def test_what_is_no_token(text: str, message: str) -> None:
    with pytest.raises(ResumeError, match=message) as caught:
        parse_token(text)
    assert caught.value.hint


@given(
    st.text(max_size=100) | st.from_regex(r"1-[0-9a-f]{1,16}-[0-9a-f]{1,8}-([0-9a-f]{2})+", fullmatch=True)
)
def test_any_text_may_come(text: str) -> None:
    with pytest.raises(ResumeError):
        parse_token(text)


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("0123456789abcdef-x"))
def test_any_character_may_be_another(place: int, character: str) -> None:
    text = TOKEN[:place] + character + TOKEN[place + 1 :]
    if text == TOKEN:
        return
    with pytest.raises(ResumeError):
        parse_token(text)


@settings(max_examples=200)
@given(st.data(), st.sampled_from(ORDERS))
def test_any_payload_may_come(data: st.DataObject, order: ByteOrder) -> None:
    """With a right checksum, so that what it says is looked at."""
    nvlist = bytearray(packed(order, *map_of(order)))
    place = data.draw(st.integers(0, len(nvlist) - 1))
    nvlist[place] = data.draw(st.integers(0, 255))
    try:
        token = parse_token(token_around(order, bytes(nvlist)))
    except ResumeError:
        return
    assert token.point.byte_order == order
