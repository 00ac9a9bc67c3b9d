"""Packed nvlists in native encoding: those of resuming streams, and those of libzfs_core.

Source: OpenZFS module/nvpair/nvpair.c (`nvlist_common`, `nvs_native_nvlist`, `nvs_native_nvpair`,
`i_validate_nvpair`) and include/sys/nvpair.h. A packed list is

    encoding (u8: 0 is native), byte order (u8: 1 is little), 2 zero bytes   `nvs_header_t`
    version (i32: 0), flags (u32: 1 says that names are unique)              `nvlist_t`
    pairs: size (i32), length of name with its NUL (i16), 2 zero bytes,      `nvpair_t`
           number of values (i32), type (i32), name, value
    0 (i32)

where a pair's name ends, and its value ends, at a multiple of 8 bytes from the pair's beginning. Integers are
in the byte order of the host that packed it, and no other host unpacks it. The value of a pair that is a list
is the 24 bytes of an `nvlist_t`; the pairs of that list, with the 0 at their end, follow the pair.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgstored.errors import StreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.zstream.fletcher4 import ByteOrder

Value = int | str | bool
#: What a list of the kernel's has. None is the type boolean, which is true by being there.
Tree = int | bytes | bool | None | dict[bytes, "Tree"]

#: Bytes and pairs of a list that are read; a receive token's has some hundred bytes and a dozen pairs.
MAX_PACKED: Final = 64 << 10
MAX_PAIRS: Final = 64

#: Lists in lists that are read; the kernel makes 20 of a channel program's answer.
MAX_DEPTH: Final = 32

#: `data_type_t`, of which these are read.
BOOLEAN: Final = 1
INT32: Final = 5
INT64: Final = 7
UINT64: Final = 8
STRING: Final = 9
NVLIST: Final = 19
BOOLEAN_VALUE: Final = 21
#: `DATA_TYPE_NVLIST` and its array: their pairs follow the pair that names them.
_NESTED: Final = (NVLIST, 20)
#: Numbers, and how `struct` has them.
_NUMBERS: Final = {INT32: "i", INT64: "q", UINT64: "Q", BOOLEAN_VALUE: "i"}

_UNIQUE_NAMES: Final = 1
#: Version, flags, and what only counts in memory: `nvl_priv`, `nvl_flag`, `nvl_pad`.
_EMBEDDED: Final = "iIQIi"
_HEAD: Final = 12
_PAIR: Final = 16
_ORDERS: Final[dict[int, ByteOrder]] = {0: ">", 1: "<"}


def unpack(data: bytes) -> tuple[ByteOrder, dict[str, Value]]:
    """The byte order of a packed list, and its pairs: uint64, strings, and booleans (always true).

    Pairs of other types are left out. Raises `StreamError` for what is no flat list in native encoding.
    """
    if not _HEAD <= len(data) <= MAX_PACKED:
        raise StreamError(f"a packed nvlist of {len(data)} bytes is not possible")
    order = _order(data)
    pairs: dict[str, Value] = {}
    at = _HEAD
    for _ in range(MAX_PAIRS + 1):
        size = _size_of_pair(data, order, at)
        if size == 0:
            return order, pairs
        name, value = _pair(data[at : at + size], order)
        if name in pairs:
            raise StreamError(f"the nvlist has two values named {name!r}")
        if value is not None:
            pairs[name] = value
        at += size
    raise StreamError(f"the nvlist has more than {MAX_PAIRS} pairs")


def unpack_tree(data: bytes) -> dict[bytes, Tree]:
    """The pairs of a packed list, and of the lists in it; of numbers int32, int64 and uint64.

    Raises `StreamError` for what is malformed, deeper than `MAX_DEPTH`, or has a value of another type.
    """
    if len(data) < _HEAD:
        raise StreamError(f"a packed nvlist of {len(data)} bytes is not possible")
    pairs, _ = _branch(data, _order(data), _HEAD, 1)
    return pairs


def pack(pairs: Mapping[bytes, Tree], order: ByteOrder) -> bytes:
    """A packed list, for a host of that byte order; a number becomes a uint64.

    Raises `ValueError` for a name or a string with a NUL, which would end there, and for a number below 0 or
    of more than 64 bits.
    """
    parts = [struct.pack(f"{order}BBxxiI", 0, order == "<", 0, _UNIQUE_NAMES)]
    _pack_into(parts, pairs, order)
    return b"".join(parts)


def pack_uint64s(values: Mapping[str, int], order: ByteOrder) -> bytes:
    """A packed list of uint64, for a host of that byte order. Its length is a multiple of 8."""
    return pack({name.encode(): value for name, value in values.items()}, order)


def _pack_into(parts: list[bytes], pairs: Mapping[bytes, Tree], order: ByteOrder) -> None:
    for name, value in pairs.items():
        match value:
            case None:
                kind, packed = BOOLEAN, b""
            case bool():
                kind, packed = BOOLEAN_VALUE, struct.pack(f"{order}i", value)
            case int():
                if not 0 <= value < 1 << 64:
                    raise ValueError(f"{value} is no uint64")
                kind, packed = UINT64, struct.pack(f"{order}Q", value)
            case bytes():
                kind, packed = STRING, _terminated(value)
            case _:
                kind, packed = NVLIST, struct.pack(f"{order}{_EMBEDDED}", 0, _UNIQUE_NAMES, 0, 0, 0)
        encoded = _terminated(name)
        start = _round8(_PAIR + len(encoded))
        end = _round8(start + len(packed))
        head = struct.pack(f"{order}ihxxii", end, len(encoded), kind != BOOLEAN, kind)
        parts.append(((head + encoded).ljust(start, b"\0") + packed).ljust(end, b"\0"))
        if isinstance(value, dict):
            _pack_into(parts, value, order)
    parts.append(bytes(4))


def _branch(data: bytes, order: ByteOrder, at: int, depth: int) -> tuple[dict[bytes, Tree], int]:
    """The pairs from `at` on, and the place behind them."""
    if depth > MAX_DEPTH:
        raise StreamError(f"the nvlist has more than {MAX_DEPTH} lists in each other")
    pairs: dict[bytes, Tree] = {}
    while size := _size_of_pair(data, order, at):
        name, kind, count, value = _split(data[at : at + size], order)
        at += size
        if kind == NVLIST and count == 1 and len(value) == struct.calcsize(f"{order}{_EMBEDDED}"):
            pairs[name], at = _branch(data, order, at, depth + 1)
        else:
            pairs[name] = _leaf(kind, count, value, order)
    return pairs, at + 4


def _leaf(kind: int, count: int, value: bytes, order: ByteOrder) -> Tree:
    if kind == BOOLEAN and count == 0 and not value:
        return None
    if kind == STRING and count == 1 and b"\0" in value:
        return value.split(b"\0", 1)[0]
    if kind in _NUMBERS and count == 1 and len(value) == 8:
        number: int = struct.unpack_from(f"{order}{_NUMBERS[kind]}", value)[0]
        return bool(number) if kind == BOOLEAN_VALUE else number
    raise StreamError(f"the nvlist has a value of type {kind} that is malformed, or not read")


def _order(data: bytes) -> ByteOrder:
    """The byte order of a packed list. Raises `StreamError` unless its head is right."""
    order = _ORDERS.get(data[1])
    if data[0] != 0 or order is None:
        raise StreamError("the nvlist is not in native encoding")
    version, _ = struct.unpack_from(f"{order}iI", data, 4)
    if version != 0:
        raise StreamError(f"the nvlist has the unknown version {version}")
    return order


def _size_of_pair(data: bytes, order: ByteOrder, at: int) -> int:
    """Bytes of the pair at `at`; 0 where the list ends."""
    if at + 4 > len(data):
        raise StreamError("the nvlist is cut short")
    size: int = struct.unpack_from(f"{order}i", data, at)[0]
    if size and not _round8(_PAIR + 1) <= size <= len(data) - at:
        raise StreamError(f"the nvlist has a pair of {size} bytes, which is not possible")
    return size


def _pair(pair: bytes, order: ByteOrder) -> tuple[str, Value | None]:
    """Name and value; None for a type that is not read."""
    name, kind, count, value = _split(pair, order)
    if kind in _NESTED:
        raise StreamError("there is an nvlist in the nvlist")
    return _text(name), _value(kind, count, value, order)


def _split(pair: bytes, order: ByteOrder) -> tuple[bytes, int, int, bytes]:
    """Name, type, number of values, and the values with what fills up to 8 bytes."""
    _, length, count, kind = struct.unpack_from(f"{order}ihxxii", pair)
    start = _round8(_PAIR + length)
    encoded = pair[_PAIR : _PAIR + max(length, 0)]
    if length < 1 or start > len(pair) or encoded.find(b"\0") != length - 1:
        raise StreamError("the nvlist has a pair whose name is malformed")
    return encoded[:-1], kind, count, pair[start:]


def _value(kind: int, count: int, value: bytes, order: ByteOrder) -> Value | None:
    if kind == BOOLEAN and count == 0 and not value:
        return True
    if kind == UINT64 and count == 1 and len(value) == 8:
        return int(struct.unpack(f"{order}Q", value)[0])
    if kind == STRING and count == 1 and b"\0" in value:
        return _text(value.split(b"\0", 1)[0])
    if kind in (BOOLEAN, UINT64, STRING):
        raise StreamError("the nvlist has a malformed value")
    return None


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise StreamError("the nvlist has text that is not UTF-8") from None


def _terminated(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError(f"{text!r} has a NUL in it")
    return text + b"\0"


def _round8(length: int) -> int:
    return (length + 7) & ~7
