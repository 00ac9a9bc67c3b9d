"""Makes the index of an image's file while the file is made, or read. Pure.

stream ──► IndexBuilder.feed ──► records ──► FrameCutter ──► what each frame of the file has
frames of the file ──► IndexBuilder.frame
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final

from imgstored.delta.index import (
    HASH_SIZE,
    MAGIC,
    MAX_FRAME,
    MAX_FRAMES,
    MAX_INLINE,
    MAX_PAYLOADS,
    MAX_RECORDS,
    VERSION,
    Head,
    IndexFaultError,
    encode_index,
    hash_of,
    is_external,
    parse_index,
)
from imgstored.errors import NotSupportedError
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import CHECKED_SIZE, HEADER_SIZE, RecordType, stated_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgstored.zstream.fletcher4 import Buffer
    from imgstored.zstream.records import Record

#: Payloads with fewer bytes cost more as hashes, and as ranges to fetch, than they have compressed.
_INLINE: Final = 600
#: A frame ends with the record with which it has so many bytes, and before an object if it has so many: what
#: changes is mostly an object. Small frames cost compression; large ones are fetched for a part of them.
_FRAME: Final = 64 << 10
_OBJECTS: Final = 16 << 10
#: A record with so many bytes has a frame of its own.
_ALONE: Final = 24 << 10

_SKELETON_LEVEL: Final = 12


class IndexBuilder:
    """Gets a stream from its first byte, and the frames of its file. Then `finish` gives the index.

    Raises `StreamError` for a stream that is none, and `NotSupportedError` for one that cannot have an index;
    also where this installation has no zstd.
    """

    def __init__(self) -> None:
        self._reader = StreamReader()
        self._sha256 = hashlib.sha256()
        self._skeleton = _Section()
        self._frames = _Section()
        self._hashes = bytearray()
        self._records = 0
        self._frame_count = 0
        self._file_size = 0
        self._in_frames = 0

    def feed(self, piece: Buffer) -> list[Record]:
        """Adds the stream's next bytes; returns the records that they complete, all of them verified."""
        self._sha256.update(piece)
        assert MAX_INLINE >= _INLINE
        records = []
        parts: list[Buffer] = []
        for record, sums in self._reader.records_and_sums(piece):
            self._records += 1
            self._add(record, sums, parts)
            records.append(record)
        self._skeleton.add(b"".join(parts))
        if self._records > MAX_RECORDS or len(self._hashes) > MAX_PAYLOADS * HASH_SIZE:
            raise NotSupportedError("the stream has too many records for an index")
        return records

    def _add(self, record: Record, sums: tuple[int, ...], parts: list[Buffer]) -> None:
        begin = self._reader.begin
        assert begin is not None
        if record.type == RecordType.BEGIN:
            parts += (record.header, record.payload)
            return
        if stated_checksum(record.header, begin.byte_order) != sums:
            raise NotSupportedError(
                "the stream's records have no checksums of their own, so that there can be no index of it",
                hint="`zfs send` of any newer system makes them",
            )
        parts.append(record.header[:CHECKED_SIZE])
        if is_external(record.type, len(record.payload), _INLINE):
            self._hashes += hash_of(record.payload)
        else:
            parts.append(record.payload)

    def frame(self, size: int, plain: int) -> None:
        """Adds the file's next frame, of `size` bytes, which decompresses to `plain` bytes."""
        self._frame_count += 1
        self._file_size += size
        self._in_frames += plain
        if plain > MAX_FRAME or self._frame_count > MAX_FRAMES:
            raise NotSupportedError(
                "the file has frames that are too large, or too many of them, for an index",
                hint="`imgctl create` makes files that can have one",
            )
        self._frames.add(struct.pack("<II", size, plain))

    def finish(self) -> bytes:
        """The index. Raises `StreamError` unless the stream is complete."""
        self._reader.finish()
        size = self._reader.offset
        if self._in_frames != size:
            raise NotSupportedError("the frames of the file are not the stream")
        skeleton, frames = self._skeleton.finish(), self._frames.finish()
        head = Head(
            MAGIC,
            VERSION,
            _INLINE,
            self._file_size,
            size,
            self._sha256.digest(),
            self._records,
            len(self._hashes) // HASH_SIZE,
            self._frame_count,
            len(frames),
            len(skeleton),
            self._skeleton.size,
        )
        made = encode_index(head, frames, bytes(self._hashes), skeleton)
        try:
            parse_index(made)
        except IndexFaultError as error:
            raise NotSupportedError(
                f"the file cannot have an index: {error.message}",
                hint="`imgctl create` makes files that can have one",
            ) from error
        return made


class FrameCutter:
    """Puts records together to what each frame of a file has."""

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self._size = 0

    def feed(self, records: Iterable[Record]) -> Iterator[bytes]:
        """The contents of the frames that these records complete."""
        for record in records:
            size = HEADER_SIZE + len(record.payload)
            due = size >= _ALONE or (record.type == RecordType.OBJECT and self._size >= _OBJECTS)
            if due and self._size:
                yield self._taken()
            # The records are views of what the caller may use again.
            self._parts += (bytes(record.header), bytes(record.payload))
            self._size += size
            if self._size >= (_ALONE if size >= _ALONE else _FRAME):
                yield self._taken()

    def finish(self) -> Iterator[bytes]:
        """The last frame's content, if there is one."""
        if self._size:
            yield self._taken()

    def _taken(self) -> bytes:
        content = b"".join(self._parts)
        self._parts, self._size = [], 0
        return content


class _Section:
    """A section that is compressed while it grows."""

    def __init__(self) -> None:
        self.size = 0  #: plain bytes
        self._compressor: Any = _compressor()
        self._made = bytearray()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._made += self._compressor.compress(data)

    def finish(self) -> bytes:
        return bytes(self._made + self._compressor.flush())


def _compressor() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise NotSupportedError(
            "this installation cannot write zstd",
            hint='install the Python package "zstandard" where imgstored is installed',
        ) from error
    return zstandard.ZstdCompressor(level=_SKELETON_LEVEL).compressobj()
