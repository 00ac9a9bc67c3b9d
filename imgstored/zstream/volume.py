"""The effects of a volume's stream on its disk, and the checks of its records. Pure: no I/O.

A volume is two objects (OpenZFS include/sys/zvol_impl.h): object 1 is the disk, object 2 a ZAP of its
properties, of which `size` is one. A sender goes through an object from its start to its end, so that no
block is written twice; a stream that does otherwise is refused: the disk could not give its records back.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import StreamError
from imgstored.zstream.records import DAMAGED, Record, RecordType

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import Buffer, ByteOrder

DISK: Final = 1
PROPERTIES: Final = 2

#: No volume is larger, in bytes; ext4 holds no larger file.
MAX_VOLUME: Final = 16 << 40

#: Payloads that are not the disk's, bytes in all. A real volume has 512.
MAX_OTHER: Final = 1 << 20

#: The length in a FREE record that means "to the end".
TO_THE_END: Final = (1 << 64) - 1

#: ZBT_MICRO, the first word of a micro-ZAP, and the size of its head and of each entry (zap_impl.h).
MICRO_ZAP: Final = (1 << 63) + 3
ZAP_CHUNK: Final = 64


class VolumeState(Struct, frozen=True):
    """The state of a volume after some of its records. Offsets and sizes in bytes."""

    cursor: int = 0  #: end of what was written or freed: what follows is as it was in the origin
    written: int = 0  #: end of what was written
    inherited: int = 0  #: the disk is as in the origin up to here, and zeros from here on
    size: int | None = None
    block_size: int | None = None
    other: int = 0  #: payloads that are not the disk's


class Write(NamedTuple):
    """`payload` belongs at `offset`."""

    offset: int
    payload: Buffer


class Free(NamedTuple):
    """The disk is zeros from `offset` to `end`, which may be beyond its size."""

    offset: int
    end: int


class Volume:
    """Follows the records of one volume. Give it every record, in order."""

    def __init__(self, byte_order: ByteOrder, state: VolumeState) -> None:
        self._order = byte_order
        self._state = state

    @property
    def state(self) -> VolumeState:
        """The state so far."""
        return self._state

    def step(self, record: Record) -> Write | Free | None:
        """The effect of the record on the disk. Raises `StreamError` for a record that no volume has."""
        match record.type:
            case RecordType.WRITE if record.object == DISK and not record.compression:
                return self._write(record)
            case RecordType.FREE if record.object == DISK:
                return self._free(record)
            case RecordType.WRITE if record.object == PROPERTIES and not record.compression:
                self._properties(record)
            case RecordType.OBJECT:
                self._object(record)
            case RecordType.FREEOBJECTS:
                if record.object <= PROPERTIES and record.object + record.length > DISK:
                    raise StreamError("the stream deletes its own volume", hint=DAMAGED)
            case RecordType.BEGIN | RecordType.END | RecordType.FREE:
                pass
            case _:
                _refuse(record)
        if len(record.payload):
            self._keep(len(record.payload))
        return None

    def finish(self) -> int:
        """The volume's size, once all records are there. Raises `StreamError` if it is not known."""
        size = self._state.size
        if size is None:
            raise StreamError("the stream does not say how large its volume is", hint=DAMAGED)
        if self._state.written > size:
            raise StreamError(
                f"the stream writes up to byte {self._state.written} of a volume of {size} bytes",
                hint=DAMAGED,
            )
        return size

    def _write(self, record: Record) -> Write:
        state = self._state
        if record.offset < state.cursor:
            raise StreamError(f"the stream goes back to byte {record.offset} of its volume", hint=DAMAGED)
        end = record.offset + record.length
        if end > MAX_VOLUME:
            raise StreamError(f"the stream writes at byte {record.offset} of its volume", hint=_TOO_LARGE)
        self._state = VolumeState(end, end, state.inherited, state.size, state.block_size, state.other)
        return Write(record.offset, record.payload)

    def _free(self, record: Record) -> Free:
        state = self._state
        if record.offset < state.cursor:
            raise StreamError(f"the stream goes back to byte {record.offset} of its volume", hint=DAMAGED)
        end = min(record.offset + record.length, MAX_VOLUME)
        offset = min(record.offset, end)
        if record.length == TO_THE_END:
            # Sent first of all, where the origin was larger; the rest is then still to come.
            self._state = replace(state, inherited=min(state.inherited, offset))
        else:
            self._state = replace(state, cursor=max(state.cursor, end))
        return Free(offset, end)

    def _object(self, record: Record) -> None:
        if record.object not in (DISK, PROPERTIES):
            _refuse(record)
        if record.object == DISK:
            size = struct.unpack_from(f"{self._order}I", record.header, 24)[0]
            if self._state.block_size not in (None, size):
                raise StreamError(
                    f"the volume has blocks of {size} bytes, and its origin of {self._state.block_size}",
                    hint="the stream is not that of a clone of its origin; tell its publisher",
                )
            self._state = replace(self._state, block_size=size)

    def _properties(self, record: Record) -> None:
        if record.offset == 0:
            size = micro_zap_value(record.payload, self._order, b"size")
            if size is None or size % 512 or not 0 < size <= MAX_VOLUME:
                raise StreamError(
                    f"the volume's size cannot be read, or is not possible ({size})", hint=_TOO_LARGE
                )
            self._state = replace(self._state, size=size)

    def _keep(self, size: int) -> None:
        self._state = replace(self._state, other=self._state.other + size)
        if self._state.other > MAX_OTHER:
            raise StreamError("the stream contains more than a volume", hint=DAMAGED)


_TOO_LARGE = f"volumes of up to {MAX_VOLUME >> 40} TiB can be received"


def _refuse(record: Record) -> None:
    if record.object in (DISK, PROPERTIES) and (
        record.compression or record.type == RecordType.WRITE_EMBEDDED
    ):
        raise StreamError(
            "the volume's stream has compressed blocks, which this pool cannot unpack",
            hint="recreate it with plain `zfs send`, without -c, -e and -w",
        )
    raise StreamError(
        f"the stream has a {record.type.name} record of object {record.object}, which a volume does not have",
        hint=DAMAGED,
    )


def micro_zap_value(block: Buffer, order: ByteOrder, name: bytes) -> int | None:
    """A number in a block that is a micro-ZAP; None if it is none, or has no such name."""
    if len(block) < ZAP_CHUNK or struct.unpack_from(f"{order}Q", block)[0] != MICRO_ZAP:
        return None
    for start in range(ZAP_CHUNK, len(block) - ZAP_CHUNK + 1, ZAP_CHUNK):
        value, entry = struct.unpack_from(f"{order}Q6x50s", block, start)
        if entry.split(b"\0", 1)[0] == name:
            return int(value)
    return None
