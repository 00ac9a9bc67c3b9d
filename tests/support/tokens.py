"""Makes receive tokens, as `get_receive_resume_token_impl` in OpenZFS module/zfs/dsl_dataset.c does."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.zstream.fletcher4 import ByteOrder

Pair = bytes


def token_of(
    order: ByteOrder = "<",
    *,
    object: int,  # noqa: A002  (the token's own name for it)
    offset: int,
    toguid: int,
    bytes: int = 0,  # noqa: A002  (the token's own name for it)
    toname: str = "zones/made@final",
    fromguid: int = 0,
    flags: tuple[str, ...] = (),
) -> str:
    """A token that says this."""
    numbers = {"object": object, "offset": offset, "bytes": bytes, "toguid": toguid}
    if fromguid:
        numbers = {"fromguid": fromguid} | numbers
    pairs = [uint64(order, name, value) for name, value in numbers.items()]
    pairs.append(string(order, "toname", toname))
    pairs += [boolean(order, flag) for flag in flags]
    return token_around(order, packed(order, *pairs))


def token_around(order: ByteOrder, nvlist: bytes, *, length: int | None = None) -> str:
    """A token with the right checksum around any payload."""
    compressed = zlib.compress(nvlist, 6)
    words = struct.unpack(f"{order}{len(compressed) // 4}I", compressed[: len(compressed) // 4 * 4])
    return f"1-{sum(words):x}-{len(nvlist) if length is None else length:x}-{compressed.hex()}"


def packed(order: ByteOrder, *pairs: Pair) -> bytes:
    """A packed nvlist in native encoding."""
    head = bytes([0, 1 if order == "<" else 0, 0, 0]) + struct.pack(f"{order}iI", 0, 1)
    return head + b"".join(pairs) + bytes(4)


def uint64(order: ByteOrder, name: str, value: int) -> Pair:
    return pair(order, name, 8, 1, struct.pack(f"{order}Q", value))


def string(order: ByteOrder, name: str, value: str) -> Pair:
    return pair(order, name, 9, 1, value.encode() + b"\0")


def boolean(order: ByteOrder, name: str) -> Pair:
    return pair(order, name, 1, 0, b"")


def pair(order: ByteOrder, name: str, kind: int, count: int, value: bytes) -> Pair:
    """Any pair."""
    encoded = name.encode() + b"\0"
    padding = bytes(-(16 + len(encoded)) % 8)
    value += bytes(-len(value) % 8)
    size = 16 + len(encoded) + len(padding) + len(value)
    return struct.pack(f"{order}ihhii", size, len(encoded), 0, count, kind) + encoded + padding + value


def as_values(pairs: Mapping[str, int | str | bool], order: ByteOrder) -> bytes:
    """A packed nvlist of these."""
    made = []
    for name, value in pairs.items():
        match value:
            case bool():
                made.append(boolean(order, name))
            case int():
                made.append(uint64(order, name, value))
            case str():
                made.append(string(order, name, value))
    return packed(order, *made)
