"""Makes the send stream of a volume from the contents of its disk. Pure: no I/O.

What `zfs send` makes of a volume that was created, filled and snapshotted, made without a ZFS:
docs/zstream-write.md says what is in it. Integers are little-endian, which every ZFS reads.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import UsageError
from imgstored.zstream.fletcher4 import Buffer
from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE, MAGIC, Objset, RecordType
from imgstored.zstream.seal import UNSEALED, Sealer
from imgstored.zstream.volume import DISK, MAX_VOLUME, MICRO_ZAP, PROPERTIES, TO_THE_END, ZAP_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_BLOCK_SIZE: Final = 8 << 10
MIN_BLOCK_SIZE: Final = 4 << 10
#: Larger blocks need the feature LARGE_BLOCKS, which not every receiver has.
MAX_BLOCK_SIZE: Final = 128 << 10

#: Bytes of records that are summed and given out together: what fits a core's cache with its sums.
_BATCH: Final = 256 << 10

#: DMU_SUBSTREAM in `drr_versioninfo`, with no features: all that a volume of small plain blocks needs.
_SUBSTREAM: Final = 1
#: DRR_FLAG_FREERECORDS and DRR_FLAG_SPILL_BLOCK, which every full stream has, and old receivers pass over.
_FLAGS: Final = 4 | 8
#: DMU_OT_ZVOL and DMU_OT_ZVOL_PROP: the types of the two objects.
_TYPES: Final = {DISK: 23, PROPERTIES: 24}
#: ZIO_CHECKSUM_OFF: the sender had no checksum by which the receiver could find the same block elsewhere.
_NO_KEY: Final = 2
#: Bytes of the micro-ZAP.
_ZAP_SIZE: Final = 512
#: Objects in the block that holds the dnodes of both; a sender says that the others are not there.
_DNODES: Final = 32

_MASK: Final = (1 << 64) - 1

_MAX_NAME: Final = 255
_COMPONENT: Final = r"[A-Za-z0-9_.:-]+"
_NAME: Final = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*@{_COMPONENT}")

#: An offset on the disk, and what is there.
Extent = tuple[int, Buffer]


class NewVolume(Struct, frozen=True):
    """The facts about a new stream's volume. Raises `UsageError` for an impossible volume."""

    name: str  #: DATASET@SNAPSHOT; a receiver takes the snapshot's name from it, if it is given none
    size: int  #: bytes, a multiple of `block_size`; see `padded`
    guid: int  #: of the snapshot; what is built on it later says so by this number
    created: int  #: when the snapshot was made, in seconds since 1970
    block_size: int = DEFAULT_BLOCK_SIZE  #: bytes, a power of two

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _MAX_NAME:
            raise UsageError(
                f"{self.name!r} is not the name of a snapshot", hint="a name is as in zones/disk@final"
            )
        check_block_size(self.block_size)
        if not 0 < self.size <= MAX_VOLUME or self.size % self.block_size:
            raise UsageError(
                f"a volume of {self.size} bytes, in blocks of {self.block_size}, is not possible",
                hint=f"a volume has up to {MAX_VOLUME >> 40} TiB, in whole blocks",
            )
        if not 0 < self.guid <= _MASK or not 0 <= self.created <= _MASK:
            raise UsageError(
                f"a snapshot with the guid {self.guid}, made at {self.created}, is not possible",
                hint="both are numbers of 64 bits, and the guid is not 0",
            )


def check_block_size(block_size: int) -> None:
    """Raises `UsageError` unless volumes can have blocks of this many bytes."""
    if not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE or block_size.bit_count() != 1:
        raise UsageError(
            f"blocks of {block_size} bytes are not possible",
            hint=f"a power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}, as for `zfs create -b`",
        )


def padded(size: int, block_size: int) -> int:
    """The size of the volume, in bytes, that a disk of this size needs: a volume is of whole blocks."""
    return size + -size % block_size


def volume_stream(volume: NewVolume, extents: Iterable[Extent]) -> Iterator[bytearray]:
    """The stream of the volume, in pieces of at least 256 KiB, but for the last.

    `extents` come in order and do not overlap, and each begins at a multiple of the block size. What they
    leave out is zeros, and so is what one lacks to a whole block. Blocks of zeros are left out of the stream,
    too. Raises `ValueError` for extents that are otherwise.
    """
    writer = _Writer(volume.guid)
    writer.begin(volume)
    writer.object(DISK, volume.block_size)
    writer.free(DISK, volume.size, TO_THE_END)
    end = reach = 0
    for offset, data in extents:
        if offset < reach or offset % volume.block_size or offset + len(data) > volume.size:
            raise ValueError(f"an extent at byte {offset} of {len(data)} bytes is out of place")
        reach = offset + len(data)
        for start, block in _blocks(data, volume.block_size):
            if offset + start > end:
                writer.free(DISK, end, offset + start - end)
            writer.write(DISK, offset + start, block)
            end = offset + start + volume.block_size
            if writer.size >= _BATCH:
                yield writer.take()
    if end < volume.size:
        writer.free(DISK, end, volume.size - end)
    writer.object(PROPERTIES, _ZAP_SIZE)
    writer.free(PROPERTIES, _ZAP_SIZE, TO_THE_END)
    writer.write(PROPERTIES, 0, _properties(volume))
    writer.free_objects(PROPERTIES + 1, _DNODES - PROPERTIES - 1)
    rest = writer.take()
    writer.end()
    yield rest + writer.take()


def _blocks(data: Buffer, size: int) -> Iterator[tuple[int, bytes | bytearray]]:
    """Each block that is not all zeros, and where in `data` it begins."""
    data = bytes(data) if isinstance(data, memoryview) else data
    zeros = bytes(size)
    for start in range(0, len(data), size):
        # In place: blocks of zeros are not copied.
        if not data.startswith(zeros, start):
            block = data[start : start + size]
            if len(block) < size:
                block = block.ljust(size, b"\0")
                if block == zeros:
                    continue
            yield start, block


def _properties(volume: NewVolume) -> bytes:
    """The volume's properties: a micro-ZAP with one entry. Its salt is any number, by custom an odd one."""
    head = struct.pack("<QQQ", MICRO_ZAP, volume.guid | 1, 0).ljust(ZAP_CHUNK, b"\0")
    entry = struct.pack("<QI2x50s", volume.size, 0, b"size")
    return (head + entry).ljust(_ZAP_SIZE, b"\0")


class _Writer:
    """Makes records, and the checksums that chain them, of many records at a time."""

    def __init__(self, guid: int) -> None:
        self._guid = guid
        self._sealer = Sealer("<")
        self._parts: list[Buffer] = []
        self._places: list[int] = []  # where in these the records' own checksums go
        self.size = 0  #: bytes of records that were not taken yet

    def begin(self, volume: NewVolume) -> None:
        body = struct.pack(
            "<QQQIIQQ256s",
            MAGIC,
            _SUBSTREAM,
            volume.created,
            Objset.VOLUME,
            _FLAGS,
            volume.guid,
            0,
            volume.name.encode(),
        )
        header = struct.pack("<II", RecordType.BEGIN, 0) + body
        # BEGIN has no checksum: its last field, the name, reaches into the place.
        self._parts.append(header)
        self.size += len(header)

    def object(self, number: int, block_size: int) -> None:
        """One dnode slot, and no bonus."""
        fields = (number, _TYPES[number], 0, block_size, 0, 0, 0, 1)
        self._add(RecordType.OBJECT, struct.pack("<QIIIIBBB5xQ", *fields, self._guid))

    def write(self, number: int, offset: int, block: Buffer) -> None:
        fields = (number, _TYPES[number], 0, offset, len(block), self._guid, _NO_KEY)
        self._add(RecordType.WRITE, struct.pack("<QIIQQQB", *fields), block)

    def free(self, number: int, offset: int, length: int) -> None:
        self._add(RecordType.FREE, struct.pack("<QQQQ", number, offset, length, self._guid))

    def free_objects(self, first: int, count: int) -> None:
        self._add(RecordType.FREEOBJECTS, struct.pack("<QQQ", first, count, self._guid))

    def end(self) -> None:
        """Ends the stream. The caller must have taken all earlier bytes: END has their checksum."""
        self._add(RecordType.END, struct.pack("<4QQ", *self._sealer.sums, self._guid))

    def _add(self, kind: RecordType, body: bytes, payload: Buffer = b"") -> None:
        header = (struct.pack("<II", kind, 0) + body).ljust(CHECKED_SIZE, b"\0")
        self._places.append(self.size + CHECKED_SIZE)
        self._parts += (header, UNSEALED, payload)
        self.size += HEADER_SIZE + len(payload)

    def take(self) -> bytearray:
        """The records that were made since it was called last, now with their checksums."""
        made = bytearray().join(self._parts)
        self._sealer.seal(made, self._places)
        self._parts, self._places, self.size = [], [], 0
        return made
