"""Makes valid ZFS send streams, and with `StreamWriter` any other.

The layouts are those of OpenZFS include/sys/zfs_ioctl.h; tests/data has streams that a real ZFS made.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import itertools
import lzma
import random
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imgstored.zstream.fletcher4 import ByteOrder, Fletcher4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Payload of the WRITE records that `stream_of` makes: ZFS's usual record size.
BLOCK = 128 << 10
#: The last block is filled up with zeros to a multiple of this.
ALIGNMENT = 8 << 10
ZERO_SUMS = (0, 0, 0, 0)

_DATA = Path(__file__).parent.parent / "data"


@functools.cache
def real_stream(name: Literal["base", "incremental", "zvol"]) -> bytes:
    """One of the streams in tests/data, decompressed."""
    match name:
        case "base":
            return gzip.decompress((_DATA / "base.zfs.gz").read_bytes())
        case "incremental":
            return lzma.decompress((_DATA / "incremental.zfs.xz").read_bytes())
        case "zvol":
            return bz2.decompress((_DATA / "zvol.zfs.bz2").read_bytes())


class StreamWriter:
    """Writes record after record with the right checksums, whatever the records say.

    Each method returns the record's bytes: header and payload. `checksums=False` leaves them out, as very old
    senders did.
    """

    def __init__(self, byte_order: ByteOrder = "<", *, checksums: bool = True, guid: int = 1) -> None:
        self.order = byte_order
        self.guid = guid
        self._checksums = checksums
        self._fletcher = Fletcher4(byte_order)

    def record(self, kind: int, body: bytes, payload: bytes | memoryview = b"", *, first: int = 0) -> bytes:
        """Any record. `body` follows the first 8 bytes, which are the type and `first`."""
        checked = struct.pack(f"{self.order}II", kind, first) + body.ljust(272, b"\0")[:272]
        self._fletcher.update(checked)
        sums = self._fletcher.sums if self._checksums else ZERO_SUMS
        # BEGIN has no checksum: its last field, a name, reaches into the place.
        tail = body[272:] if kind == 0 else struct.pack(f"{self.order}4Q", *sums)
        self._fletcher.update(tail)
        self._fletcher.update(payload)
        return b"".join((checked, tail, payload))

    def begin(
        self,
        *,
        fromguid: int = 0,
        objset: int = 2,
        features: int = 4,
        toname: str = "zones/made@final",
        stream_kind: int = 1,
        payload: bytes = b"",
    ) -> bytes:
        body = self._pack(
            "QQQIIQQ256s",
            0x2F5BACBAC,
            stream_kind | features << 2,
            1_700_000_000,
            objset,
            0,
            self.guid,
            fromguid,
            toname.encode(),
        )
        return self.record(0, body, payload, first=len(payload))

    def object(self, number: int, *, kind: int = 19, block_size: int = BLOCK, bonus: bytes = b"") -> bytes:
        body = self._pack("QIIIIBBBxIQ", number, kind, 44, block_size, len(bonus), 0, 0, 0, 0, self.guid)
        return self.record(1, body, bonus.ljust(len(bonus) + -len(bonus) % 8, b"\0"))

    def freeobjects(self, first: int, count: int) -> bytes:
        return self.record(2, self._pack("QQQ", first, count, self.guid))

    def write(
        self,
        number: int,
        offset: int,
        payload: bytes | memoryview,
        *,
        kind: int = 19,
        compressed_from: int = 0,
    ) -> bytes:
        """`compressed_from`: the logical size of a payload that is to count as compressed (by lz4)."""
        compression, stored = (15, len(payload)) if compressed_from else (0, 0)
        length = compressed_from or len(payload)
        body = self._pack(
            "QIIQQQBBB5x40xQ", number, kind, 0, offset, length, self.guid, 7, 0, compression, stored
        )
        return self.record(3, body, payload)

    def free(self, number: int, offset: int, length: int) -> bytes:
        return self.record(4, self._pack("QQQQ", number, offset, length, self.guid))

    def end(self) -> bytes:
        return self.record(5, self._pack("4QQ", *self._fletcher.sums, self.guid))

    def spill(self, number: int, payload: bytes) -> bytes:
        return self.record(7, self._pack("QQQ", number, len(payload), self.guid), payload)

    def write_embedded(self, number: int, offset: int, length: int, payload: bytes) -> bytes:
        body = self._pack("QQQQBB6xII", number, offset, length, self.guid, 15, 0, length, len(payload))
        return self.record(8, body, payload.ljust(len(payload) + -len(payload) % 8, b"\0"))

    def volume_size(self, size: int) -> bytes:
        """The WRITE of a volume's properties, a micro-ZAP (OpenZFS include/sys/zap_impl.h) with one entry."""
        head = self._pack("QQQ40x", (1 << 63) + 3, 0x1234567, 0)
        entry = self._pack("QIH50s", size, 0, 0, b"size")
        return self.write(2, 0, (head + entry).ljust(512, b"\0"), kind=24)

    def _pack(self, layout: str, *values: Any) -> bytes:
        return struct.pack(f"{self.order}{layout}", *values)


def stream_of(
    content: Iterable[bytes | memoryview],
    *,
    guid: int,
    fromguid: int = 0,
    objset: Literal["filesystem", "volume"] = "filesystem",
    byte_order: ByteOrder = "<",
    volume_size: int | None = None,
) -> Iterator[bytes]:
    """Wraps content into WRITE records of one object. Makes over 1 GB/s.

    A volume is as large as its content, filled up to 8 KiB, unless `volume_size` is given.
    """
    writer = StreamWriter(byte_order, guid=guid)
    volume = objset == "volume"
    yield writer.begin(fromguid=fromguid, objset=3 if volume else 2)
    yield writer.object(1, kind=23 if volume else 19)
    offset = 0
    for block in _blocks(content):
        yield writer.write(1, offset, block, kind=23 if volume else 19)
        offset += len(block)
    yield writer.free(1, offset, (1 << 64) - 1)
    if volume:
        yield writer.object(2, kind=24, block_size=512)
        yield writer.free(2, 512, (1 << 64) - 1)
        yield writer.volume_size(offset if volume_size is None else volume_size)
    yield writer.freeobjects(3 if volume else 2, 29)
    yield writer.end()


def filesystem_stream(*, size: int, seed: int, guid: int | None = None, fromguid: int = 0) -> bytes:
    """A filesystem's stream of about `size` bytes that hardly compress; the same for the same arguments.

    Its guid is made from the seed unless it is given.
    """
    stream = stream_of(random_content(size, seed), guid=guid or guid_of(seed), fromguid=fromguid)
    return b"".join(stream)


def guid_of(seed: int) -> int:
    """The guid of the stream made from `seed`."""
    return random.Random(f"guid {seed}").getrandbits(64) | 1


def random_content(size: int, seed: int) -> Iterator[bytes]:
    """`size` bytes that hardly compress, in blocks of 1 MiB."""
    chance = random.Random(seed)
    for start in range(0, size, 1 << 20):
        yield chance.randbytes(min(1 << 20, size - start))


def in_pieces(stream: bytes, size: int = 1 << 20) -> Iterator[memoryview]:
    """The stream in pieces of `size` bytes."""
    view = memoryview(stream)
    return (view[start : start + size] for start in range(0, len(view), size))


def _blocks(content: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The content in blocks of 128 KiB, the last one filled up with zeros."""
    rest = b""
    for piece in content:
        view = memoryview(b"".join((rest, piece)) if rest else piece)
        whole = len(view) // BLOCK * BLOCK
        for start, end in itertools.pairwise(range(0, whole + 1, BLOCK)):
            yield view[start:end]
        rest = bytes(view[whole:])
    if rest:
        yield rest.ljust(len(rest) + -len(rest) % ALIGNMENT, b"\0")
