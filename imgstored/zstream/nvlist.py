"""The little of packed nvlists that resuming a receive needs: flat lists, in native encoding.

Source: OpenZFS module/nvpair/nvpair.c (`nvlist_common`, `nvs_native_nvlist`, `nvs_native_nvpair`,
`i_validate_nvpair`) and include/sys/nvpair.h. A packed list is

    encoding (u8: 0 is native), byte order (u8: 1 is little), 2 zero bytes   `nvs_header_t`
    version (i32: 0), flags (u32: 1 says that names are unique)              `nvlist_t`
    pairs: size (i32), length of name with its NUL (i16), 2 zero bytes,      `nvpair_t`
           number of values (i32), type (i32), name, value
    0 (i32)

where a pair's name ends, and its value ends, at a multiple of 8 bytes from the pair's beginning. Integers are
in the byte order of the host that packed it, and no other host unpacks it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgstored.errors import StreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.zstream.fletcher4 import ByteOrder

Value = int | str | bool

#: Bytes and pairs of a list that are read; a receive token's has some hundred bytes and a dozen pairs.
MAX_PACKED: Final = 64 << 10
MAX_PAIRS: Final = 64

#: `data_type_t`, of which these are read.
BOOLEAN: Final = 1
UINT64: Final = 8
STRING: Final = 9
#: `DATA_TYPE_NVLIST` and its array: their pairs follow the pair that names them.
_NESTED: Final = (19, 20)

_UNIQUE_NAMES: Final = 1
_HEAD: Final = 12
_PAIR: Final = 16
_ORDERS: Final[dict[int, ByteOrder]] = {0: ">", 1: "<"}


def unpack(data: bytes) -> tuple[ByteOrder, dict[str, Value]]:
    """The byte order of a packed list, and its pairs: uint64, strings, and booleans (always true).

    Pairs of other types are left out. Raises `StreamError` for what is no flat list in native encoding.
    """
    if not _HEAD <= len(data) <= MAX_PACKED:
        raise StreamError(f"a packed nvlist of {len(data)} bytes is not possible")
    order = _ORDERS.get(data[1])
    if data[0] != 0 or order is None:
        raise StreamError("the nvlist is not in native encoding")
    version, _ = struct.unpack_from(f"{order}iI", data, 4)
    if version != 0:
        raise StreamError(f"the nvlist has the unknown version {version}")
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


def pack_uint64s(values: Mapping[str, int], order: ByteOrder) -> bytes:
    """A packed list of uint64, for a host of that byte order. Its length is a multiple of 8."""
    parts = [struct.pack(f"{order}BBxxiI", 0, order == "<", 0, _UNIQUE_NAMES)]
    for name, value in values.items():
        encoded = name.encode() + b"\0"
        head = _round8(_PAIR + len(encoded))
        fixed = struct.pack(f"{order}ihxxii", head + 8, len(encoded), 1, UINT64)
        parts.append((fixed + encoded).ljust(head, b"\0") + struct.pack(f"{order}Q", value))
    parts.append(bytes(4))
    return b"".join(parts)


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
    _, length, count, kind = struct.unpack_from(f"{order}ihxxii", pair)
    start = _round8(_PAIR + length)
    encoded = pair[_PAIR : _PAIR + max(length, 0)]
    if length < 1 or start > len(pair) or encoded.find(b"\0") != length - 1:
        raise StreamError("the nvlist has a pair whose name is malformed")
    if kind in _NESTED:
        raise StreamError("there is an nvlist in the nvlist")
    name = _text(encoded[:-1])
    return name, _value(kind, count, pair[start:], order)


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


def _round8(length: int) -> int:
    return (length + 7) & ~7
