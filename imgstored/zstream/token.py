"""Receive tokens: the resume point of an interrupted `zfs receive -s` (property `receive_resume_token`).

Source: OpenZFS module/zfs/dsl_dataset.c (`get_receive_resume_token_impl`) writes them,
lib/libzfs/libzfs_sendrecv.c (`zfs_send_resume_token_to_nvlist`) reads them. A token is

    1-CHECKSUM-LENGTH-PAYLOAD

in hexadecimal digits. PAYLOAD is an nvlist in the receiver's native encoding, compressed by zlib. LENGTH is
that of the nvlist, in bytes. CHECKSUM is the first word of the fletcher-4 of the compressed bytes, over whole
32-bit words in the receiver's byte order.
"""

from __future__ import annotations

import re
import sys
import zlib
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import ResumeError, StreamError
from imgstored.zstream.fletcher4 import Fletcher4
from imgstored.zstream.nvlist import MAX_PACKED, Value, unpack
from imgstored.zstream.records import Feature

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import ByteOrder

#: Characters of a token that is read; real ones have some hundred.
MAX_TOKEN: Final = 32 << 10

_NATIVE: Final[ByteOrder] = "<" if sys.byteorder == "little" else ">"

#: What a token tells of the stream that was being received (OpenZFS module/zfs/dmu_recv.c,
#: `dmu_recv_begin_sync`): each name is there exactly if the stream's BEGIN had the feature.
_FLAGS: Final = {
    "largeblockok": Feature.LARGE_BLOCKS,
    "embedok": Feature.EMBED_DATA,
    "compressok": Feature.COMPRESSED,
    "rawok": Feature.RAW,
}
#: The features that a token tells of.
TOLD_FEATURES: Final = Feature.LARGE_BLOCKS | Feature.EMBED_DATA | Feature.COMPRESSED | Feature.RAW

_SHAPE: Final = re.compile(r"1-([0-9a-f]{1,16})-([0-9a-f]{1,8})-((?:[0-9a-f]{2})+)", re.ASCII | re.IGNORECASE)
_HINT: Final = "take it as `zfs get -H -o value receive_resume_token POOL/DATASET` prints it"


class ResumePoint(Struct, frozen=True):
    """The stream and the resume point of a receive: the last WRITE that is in the pool."""

    object: int
    offset: int  #: in the object, bytes
    toguid: int  #: guid of the snapshot in the stream
    fromguid: int = 0  #: guid of the snapshot it builds on; 0 for a full stream
    #: Of `TOLD_FEATURES`, those that the stream has. None: not known, and so not compared.
    features: Feature | None = None
    byte_order: ByteOrder = _NATIVE  #: of the receiving host


class ResumeToken(Struct, frozen=True):
    """The contents of a token."""

    point: ResumePoint
    bytes: int  #: how much of the stream had been read when the last WRITE was in the pool
    toname: str  #: the sender's name of the snapshot; for people only


def parse_token(text: str) -> ResumeToken:
    """Reads a token. Raises `ResumeError` for anything else."""
    try:
        order, pairs = unpack(_payload(text))
        return _token(order, pairs)
    except ResumeError:
        raise
    except StreamError as error:
        raise ResumeError(f"this is no receive token: {error.message}", hint=_HINT) from None


def _payload(text: str) -> bytes:
    """The packed nvlist, whose checksum and length held."""
    match = _SHAPE.fullmatch(text) if len(text) <= MAX_TOKEN else None
    if match is None:
        raise ResumeError("this is no receive token: it is not 1-CHECKSUM-LENGTH-PAYLOAD", hint=_HINT)
    checksum, length, compressed = int(match[1], 16), int(match[2], 16), bytes.fromhex(match[3])
    orders = [order for order in ("<", ">") if _checksum(compressed, order) == checksum]
    if not orders:
        raise ResumeError("the token's checksum is wrong", hint=_HINT)
    decompressor = zlib.decompressobj()
    try:
        packed = decompressor.decompress(compressed, MAX_PACKED + 1)
    except zlib.error as error:
        raise StreamError(str(error)) from None
    if len(packed) != length or not decompressor.eof or decompressor.unused_data:
        raise StreamError("its payload has not the length that it states")
    return packed


def _checksum(compressed: bytes, order: ByteOrder) -> int:
    """The first word of the fletcher-4; bytes behind the last whole word do not count."""
    fletcher = Fletcher4(order)
    fletcher.update(compressed[: len(compressed) // 4 * 4])
    return fletcher.sums[0]


def _token(order: ByteOrder, pairs: dict[str, Value]) -> ResumeToken:
    features = Feature(0)
    for name, feature in _FLAGS.items():
        if name in pairs:
            features |= feature
    toname = pairs.get("toname", "")
    if not isinstance(toname, str):
        raise StreamError("it says no name")
    return ResumeToken(
        point=ResumePoint(
            object=_number(pairs, "object"),
            offset=_number(pairs, "offset"),
            toguid=_number(pairs, "toguid"),
            fromguid=_number(pairs, "fromguid") if "fromguid" in pairs else 0,
            features=features,
            byte_order=order,
        ),
        bytes=_number(pairs, "bytes"),
        toname=toname,
    )


def _number(pairs: dict[str, Value], name: str) -> int:
    value = pairs.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise StreamError(f"it says no {name}")
    return value
