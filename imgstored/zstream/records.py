"""The records of a ZFS send stream (OpenZFS include/sys/zfs_ioctl.h, `dmu_replay_record_t`).

A record is a header of 312 bytes and a payload. The header is a type, the length of BEGIN's payload, and a
union of 304 bytes, in whose last 32 bytes is the fletcher-4 of everything before them; but for BEGIN, whose
last field reaches into them. Integers are in the sender's byte order, which BEGIN's magic tells.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from imgstored.errors import StreamError

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import Buffer, ByteOrder, Sums

HEADER_SIZE: Final = 312
#: The header up to its own checksum.
CHECKED_SIZE: Final = HEADER_SIZE - 32
MAGIC: Final = 0x2F5BACBAC

#: SPA_MAXBLOCKSIZE: no block of data is larger.
MAX_BLOCK: Final = 16 << 20
#: A file's last byte has an offset of 63 bits (off_t); no object's data are beyond that.
MAX_END: Final = 1 << 63
#: DN_OLD_MAX_BONUSLEN to DN_SLOTS_TO_BONUSLEN(31): the largest bonus of a large dnode, rounded up.
MAX_BONUS: Final = 16 << 10
#: BEGIN's payload is an nvlist of resume points or snapshots; real ones have some hundred bytes.
MAX_BEGIN_PAYLOAD: Final = 64 << 10

#: What helps against most faults of a stream.
DAMAGED: Final = "the image file is damaged, or not what `zfs send` writes; tell who publishes it"


class RecordType(enum.IntEnum):
    """`drr_type`."""

    BEGIN = 0
    OBJECT = 1
    FREEOBJECTS = 2
    WRITE = 3
    FREE = 4
    END = 5
    WRITE_BYREF = 6
    SPILL = 7
    WRITE_EMBEDDED = 8
    OBJECT_RANGE = 9
    REDACT = 10


class Feature(enum.IntFlag):
    """`DMU_BACKUP_FEATURE_*`, from bit 2 of `drr_versioninfo` on."""

    DEDUP = 1 << 0
    DEDUPPROPS = 1 << 1
    SA_SPILL = 1 << 2
    EMBED_DATA = 1 << 16
    LZ4 = 1 << 17
    LARGE_BLOCKS = 1 << 19
    RESUMING = 1 << 20
    REDACTED = 1 << 21
    COMPRESSED = 1 << 22
    LARGE_DNODE = 1 << 23
    RAW = 1 << 24
    ZSTD = 1 << 25
    HOLDS = 1 << 26


class Objset(enum.IntEnum):
    """`dmu_objset_type_t`, of which an image is one of two."""

    FILESYSTEM = 2
    VOLUME = 3


class Begin(Struct, frozen=True):
    """The facts about the whole stream in BEGIN."""

    byte_order: ByteOrder
    features: Feature
    objset: Objset
    toguid: int  #: guid of the snapshot in the stream
    fromguid: int  #: guid of the snapshot it builds on; 0 for a full stream
    toname: str  #: the sender's name of the snapshot; for people only


class Record(NamedTuple):
    """One record: its header, what the store needs of it, and its payload."""

    type: RecordType
    header: Buffer
    payload: Buffer
    object: int = 0
    offset: int = 0  #: in the object, bytes
    length: int = 0  #: what it writes or frees in the object, bytes; of FREEOBJECTS, how many objects
    compression: int = 0  #: of the payload; 0 is none


_BEGIN = "QQQIIQQ256s"
_KIND = {order: struct.Struct(f"{order}II") for order in ("<", ">")}
_BODY = {order: struct.Struct(f"{order}QQQ") for order in ("<", ">")}
_SUMS = {order: struct.Struct(f"{order}4Q") for order in ("<", ">")}
_U32 = {order: struct.Struct(f"{order}I") for order in ("<", ">")}
_U64 = {order: struct.Struct(f"{order}Q") for order in ("<", ">")}
#: Offset and length of data.
_PLACE = {order: struct.Struct(f"{order}QQ") for order in ("<", ">")}

#: By `drr_type`: the records that nothing follows.
_BARE = frozenset((RecordType.FREEOBJECTS, RecordType.FREE, RecordType.END))


def byte_order_of(start: Buffer) -> ByteOrder | None:
    """The byte order of the stream that starts with these 16 bytes; None if they start no stream."""
    if len(start) < 16:
        return None
    for order in ("<", ">"):
        kind, _, magic = struct.unpack_from(f"{order}IIQ", start)
        if kind == RecordType.BEGIN and magic == MAGIC:
            return order
    return None


def parse_begin(header: Buffer, *, resuming: bool = False) -> Begin:
    """Reads BEGIN. Raises `StreamError` for what is no image's stream, and says what it is instead.

    `resuming`: let the second half of an image's stream pass, too.
    """
    order = byte_order_of(header)
    if order is None:
        raise StreamError("not a ZFS send stream: it does not begin with a BEGIN record", hint=DAMAGED)
    fields = struct.unpack_from(f"{order}{_BEGIN}", header, 8)
    _, versioninfo, _, objset, _, toguid, fromguid, toname = fields
    _refuse_kind(versioninfo & ~_RESUMING if resuming else versioninfo)
    if objset not in (Objset.FILESYSTEM, Objset.VOLUME):
        raise StreamError(
            f"the stream is of an unknown kind of dataset ({objset})",
            hint="an image is a filesystem or a volume",
        )
    return Begin(
        byte_order=order,
        features=Feature((versioninfo >> 2) & 0x3FFFFFFF),
        objset=Objset(objset),
        toguid=toguid,
        fromguid=fromguid,
        toname=toname.split(b"\0", 1)[0].decode("utf-8", "replace"),
    )


_REFUSED = {
    Feature.DEDUP: (
        "deduplicated (`zfs send -D`)",
        "recreate it without -D, or run it through `zstream redup`",
    ),
    Feature.RAW: (
        "raw and encrypted (`zfs send -w`)",
        "recreate it without -w: its key could not be loaded here",
    ),
    Feature.REDACTED: ("redacted (`zfs send --redact`)", "recreate it without --redact"),
    Feature.RESUMING: (
        "the second half of a stream (`zfs send -t`)",
        "recreate it with `zfs send POOL/DATASET@SNAPSHOT`",
    ),
}


_RESUMING = Feature.RESUMING << 2


def _refuse_kind(versioninfo: int) -> None:
    if versioninfo & 3 != 1:
        raise StreamError(
            "the stream is a package of several streams (`zfs send -R`)",
            hint="an image is one snapshot: recreate it with `zfs send POOL/DATASET@SNAPSHOT`",
        )
    features = Feature((versioninfo >> 2) & 0x3FFFFFFF)
    for feature, (what, instead) in _REFUSED.items():
        if feature in features:
            raise StreamError(f"the stream is {what}, which cannot be an image", hint=instead)


def record_type(data: Buffer, order: ByteOrder, at: int = 0) -> RecordType:
    """The type of the record whose header is at `at`. Raises `StreamError` for one that no image has."""
    value = _KIND[order].unpack_from(data, at)[0]
    try:
        kind = RecordType(value)
    except ValueError:
        raise StreamError(f"there is a record of unknown type {value} in the stream", hint=DAMAGED) from None
    if kind in _FOREIGN:
        raise StreamError(f"there is a {kind.name} record in the stream", hint=_FOREIGN[kind])
    return kind


_FOREIGN = {
    RecordType.WRITE_BYREF: _REFUSED[Feature.DEDUP][1],
    RecordType.OBJECT_RANGE: _REFUSED[Feature.RAW][1],
    RecordType.REDACT: _REFUSED[Feature.REDACTED][1],
}


def measure(data: Buffer, order: ByteOrder, at: int = 0) -> tuple[int, int]:
    """Type of the record whose header is at `at`, and how many bytes follow the header.

    Raises `StreamError` for a type or a length that no image has.
    """
    kind, first = _KIND[order].unpack_from(data, at)
    if kind in _BARE:
        return kind, 0
    length, limit = _payload_length(data, order, at, kind, first)
    if length > limit or length % 4:
        name = record_type(data, order, at).name
        raise StreamError(
            f"a {name} record says that {length} bytes follow, which is not possible", hint=DAMAGED
        )
    return kind, length


def _payload_length(data: Buffer, order: ByteOrder, at: int, kind: int, first: int) -> tuple[int, int]:
    """The payload length in the header, and its maximum."""
    match kind:
        case RecordType.WRITE:
            offset, length = _PLACE[order].unpack_from(data, at + 24)
            _check_place(kind, offset, length)
            return (_U64[order].unpack_from(data, at + 96)[0] if data[at + 50] else length), MAX_BLOCK
        case RecordType.OBJECT:
            raw = _U32[order].unpack_from(data, at + 36)[0]
            return raw or _round8(_U32[order].unpack_from(data, at + 28)[0]), MAX_BONUS
        case RecordType.SPILL:
            return _U64[order].unpack_from(data, at + (40 if data[at + 33] else 16))[0], MAX_BLOCK
        case RecordType.WRITE_EMBEDDED:
            _check_place(kind, *_PLACE[order].unpack_from(data, at + 16))
            return _round8(_U32[order].unpack_from(data, at + 52)[0]), MAX_BLOCK
        case RecordType.BEGIN:
            return first, MAX_BEGIN_PAYLOAD
        case _:
            record_type(data, order, at)
            return 0, 0


def _check_place(kind: int, offset: int, length: int) -> None:
    """Kernels add these up, and have believed the sum although it went beyond what 64 bits hold."""
    if offset + min(length, MAX_BLOCK) > MAX_END:
        raise StreamError(
            f"a {RecordType(kind).name} record writes at byte {offset} of its object, which is not possible",
            hint=DAMAGED,
        )


def parse_record(header: Buffer, payload: Buffer, order: ByteOrder) -> Record:
    """Reads where a record belongs."""
    kind = record_type(header, order)
    first, second, third = _BODY[order].unpack_from(header, 8)
    match kind:
        case RecordType.WRITE:
            offset, length = struct.unpack_from(f"{order}QQ", header, 24)
            return Record(kind, header, payload, first, offset, length, header[50])
        case RecordType.FREE:
            return Record(kind, header, payload, first, second, third)
        case RecordType.FREEOBJECTS:
            return Record(kind, header, payload, first, 0, second)
        case RecordType.WRITE_EMBEDDED:
            return Record(kind, header, payload, first, second, third, header[40])
        case RecordType.OBJECT | RecordType.SPILL:
            return Record(kind, header, payload, first)
        case _:
            return Record(kind, header, payload)


def stated_checksum(data: Buffer, order: ByteOrder, at: int = 0) -> Sums:
    """The checksum in the header's last 32 bytes; all zeros where an old sender left it out."""
    a, b, c, d = _SUMS[order].unpack_from(data, at + CHECKED_SIZE)
    return a, b, c, d


def end_checksum(data: Buffer, order: ByteOrder, at: int = 0) -> Sums:
    """END's word for the whole stream before it."""
    a, b, c, d = _SUMS[order].unpack_from(data, at + 8)
    return a, b, c, d


def _round8(length: int) -> int:
    return (length + 7) & ~7
