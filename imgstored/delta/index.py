"""The index of an image's file: which payload is where, and all of the stream that is no payload. Pure.

docs/deltas.md describes the format. An index comes from outside: every number in it is bounded before it is
used, and who has put a stream together by it compares the stream's SHA-256 before the stream counts.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imgstored.errors import DownloadError, StreamError
from imgstored.zstream.records import (
    CHECKED_SIZE,
    HEADER_SIZE,
    MAX_BLOCK,
    RecordType,
    byte_order_of,
    measure,
    parse_begin,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.zstream.fletcher4 import Buffer, ByteOrder

MAGIC: Final = b"imgindex"
VERSION: Final = 1

#: Bytes of an index, and what may be in it.
MAX_INDEX: Final = 64 << 20
MAX_RECORDS: Final = 1 << 22
MAX_PAYLOADS: Final = 1 << 21
MAX_FRAMES: Final = 1 << 21
MAX_STREAM: Final = 1 << 40
#: Bytes of a frame's content: the largest record, and what it is together with.
MAX_FRAME: Final = MAX_BLOCK + (1 << 20)
#: Bytes that compression may add to a frame that does not become smaller.
_FRAME_OVERHEAD: Final = 64 << 10
#: Bytes of a payload's hash: of its SHA-256 the first ones. The stream as a whole is hashed by all of them.
HASH_SIZE: Final = 16
#: A payload with fewer bytes is in the skeleton; an index may say other bounds, up to this.
MAX_INLINE: Final = 4096
#: Largest zstd window of the index's own sections.
_WINDOW: Final = 8 << 20

_HEAD: Final = struct.Struct("<8sIIQQ32sQQQQQQ")
_TRAILER: Final = 16
_PIECE: Final = 256 << 10
_PAIR: Final = 8

#: The records whose payloads are data.
_DATA: Final = frozenset((RecordType.WRITE, RecordType.SPILL, RecordType.WRITE_EMBEDDED))


class IndexFaultError(DownloadError):
    """An index that cannot be used. The image's whole file can."""


class Head(NamedTuple):
    """The first bytes of an index."""

    magic: bytes
    version: int
    inline: int  #: a payload with fewer bytes is in the skeleton
    file_size: int
    stream_size: int
    sha256: bytes  #: of the stream
    records: int
    payloads: int
    frames: int
    frames_size: int  #: of the section, compressed
    skeleton_size: int  #: of the section, compressed
    skeleton_plain: int  #: of the section, plain


class Part(NamedTuple):
    """A record as the skeleton has it."""

    header: bytes  #: BEGIN's whole; of others up to their own checksum
    inline: bytes  #: the payload, if it is in the skeleton
    external: int  #: bytes of the payload that is not; 0 if there is none


@dataclass(slots=True)
class Index:
    """An index whose sections fit each other. `parse_index` makes it."""

    file_size: int
    stream_size: int
    sha256: str  #: of the stream, hexadecimal
    byte_order: ByteOrder
    starts: array[int]  #: offset of each payload in the stream
    lengths: array[int]  #: bytes of each payload
    hashes: memoryview
    file_at: array[int]  #: offset of each frame in the file, and the file's size
    stream_at: array[int]  #: offset of each frame's content in the stream, and the stream's size
    _head: Head
    _skeleton: memoryview

    @property
    def payloads(self) -> int:
        """The number of payloads that are not in the skeleton."""
        return len(self.starts)

    def hash_of(self, number: int) -> bytes:
        """The hash of a payload."""
        return bytes(self.hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE])

    def frame_of(self, number: int) -> int:
        """The frame that has a payload."""
        return bisect_right(self.stream_at, self.starts[number]) - 1

    def in_frame(self, frame: int) -> range:
        """The payloads that a frame has."""
        start, end = self.stream_at[frame], self.stream_at[frame + 1]
        return range(bisect_left(self.starts, start), bisect_left(self.starts, end))

    def parts(self) -> Iterator[Part]:
        """The records in order."""
        return _parts(self._skeleton, self._head)


def hash_of(payload: Buffer) -> bytes:
    """The hash by which an index knows a payload."""
    return hashlib.sha256(payload).digest()[:HASH_SIZE]


def is_external(kind: int, length: int, inline: int) -> bool:
    """True if a record's payload is not in the skeleton."""
    return length >= inline and kind in _DATA


def decompressed(frame: Buffer, plain: int | None = None) -> bytes:
    """The content of one frame of a file, of `plain` bytes, or of as many as the frame says.

    Raises `IndexFaultError` for anything else.
    """
    try:
        import zstandard
    except ImportError as error:
        raise IndexFaultError("this installation cannot read zstd") from error
    decompressor: Any = zstandard.ZstdDecompressor()
    try:
        # What a frame says of its size is what is allocated for it.
        stated = zstandard.frame_content_size(frame)
        if stated != (stated if plain is None else plain) or not 0 < stated <= MAX_FRAME:
            raise IndexFaultError("a frame of the file has not the size that the index has")
        content: bytes = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IndexFaultError(f"a frame of the file cannot be decompressed: {error}") from error
    return content


def parse_index(data: Buffer, *, file_size: int | None = None) -> Index:
    """Reads an index, of which views are kept. `file_size` is what its file must have.

    Raises `IndexFaultError`, also where this installation cannot read zstd.
    """
    view = memoryview(data).cast("B")
    head = _head(view, file_size)
    frames_end = _HEAD.size + head.frames_size
    hashes_end = frames_end + head.payloads * HASH_SIZE
    skeleton_end = hashes_end + head.skeleton_size
    if len(view) != skeleton_end + _TRAILER:
        raise IndexFaultError("the index has another length than it says")
    if hashlib.sha256(view[:skeleton_end]).digest()[:_TRAILER] != view[skeleton_end:]:
        raise IndexFaultError("the checksum of the index is wrong")
    file_at, stream_at = _frames(view[_HEAD.size : frames_end], head)
    skeleton = view[hashes_end:skeleton_end]
    starts, lengths, order = _payloads(skeleton, head, stream_at)
    return Index(
        head.file_size,
        head.stream_size,
        head.sha256.hex(),
        order,
        starts,
        lengths,
        view[frames_end:hashes_end],
        file_at,
        stream_at,
        head,
        skeleton,
    )


def encode_index(head: Head, frames: bytes, hashes: bytes, skeleton: bytes) -> bytes:
    """An index of these sections, the first and the last of which are compressed."""
    body = _HEAD.pack(*head) + frames + hashes + skeleton
    return body + hashlib.sha256(body).digest()[:_TRAILER]


def _head(view: memoryview, file_size: int | None) -> Head:
    if len(view) < _HEAD.size + _TRAILER:
        raise IndexFaultError("the index is cut short")
    head = Head(*_HEAD.unpack_from(view))
    if head.magic != MAGIC:
        raise IndexFaultError("what should be an index is none")
    if head.version != VERSION:
        raise IndexFaultError(f"the index is of version {head.version}, and not {VERSION}")
    bounds = (
        (head.inline, 1, MAX_INLINE),
        (head.stream_size, HEADER_SIZE, MAX_STREAM),
        (head.file_size, 1, MAX_STREAM),
        (head.records, 2, min(MAX_RECORDS, head.stream_size // HEADER_SIZE)),
        (head.payloads, 0, min(MAX_PAYLOADS, head.records)),
        (head.frames, 1, min(MAX_FRAMES, head.file_size)),
        (head.frames_size, 1, MAX_INDEX),
        (head.skeleton_size, 1, MAX_INDEX),
        (head.skeleton_plain, HEADER_SIZE, head.stream_size),
    )
    if not all(low <= value <= high for value, low, high in bounds):
        raise IndexFaultError("the index says what cannot be")
    if file_size is not None and head.file_size != file_size:
        raise IndexFaultError(
            f"the index is of a file of {head.file_size} bytes, and the image's file has {file_size}"
        )
    return head


def _frames(section: memoryview, head: Head) -> tuple[array[int], array[int]]:
    """The offsets at which each frame begins in the file, and in the stream."""
    file_at, stream_at = array("Q", [0]), array("Q", [0])
    reader = _Plain(section, head.frames * _PAIR)
    in_file = in_stream = 0
    for _ in range(head.frames):
        size, plain = struct.unpack("<II", reader.take(_PAIR))
        if not 0 < plain <= MAX_FRAME or not 0 < size <= plain + _FRAME_OVERHEAD:
            raise IndexFaultError("a frame of the index has a size that cannot be")
        in_file += size
        in_stream += plain
        file_at.append(in_file)
        stream_at.append(in_stream)
    reader.finish()
    if (in_file, in_stream) != (head.file_size, head.stream_size):
        raise IndexFaultError("the frames of the index are not all of the file")
    return file_at, stream_at


def _payloads(
    section: memoryview, head: Head, frames: array[int]
) -> tuple[array[int], array[int], ByteOrder]:
    """Offsets and lengths of the payloads, each within one frame, and the byte order of the stream."""
    starts, lengths = array("Q"), array("I")
    position = records = frame = 0
    order: ByteOrder | None = None
    for part in _parts(section, head):
        if order is None:
            order = byte_order_of(part.header)
        position += HEADER_SIZE + len(part.inline)
        if part.external:
            if len(starts) == head.payloads:
                raise IndexFaultError("the index has more payloads than it says")
            while frame < head.frames and frames[frame + 1] <= position:
                frame += 1
            if frame == head.frames or position + part.external > frames[frame + 1]:
                raise IndexFaultError("a payload of the index is not within one frame")
            starts.append(position)
            lengths.append(part.external)
            position += part.external
        records += 1
    if (position, records, len(starts)) != (head.stream_size, head.records, head.payloads):
        raise IndexFaultError("the records of the index are not those of its stream")
    assert order is not None
    return starts, lengths, order


def _parts(section: memoryview, head: Head) -> Iterator[Part]:
    """The records of a skeleton. Raises `IndexFaultError`."""
    reader = _Plain(section, head.skeleton_plain)
    try:
        first = reader.take(HEADER_SIZE)
        order = parse_begin(first).byte_order
        kind, length = measure(first, order)
        yield Part(first, reader.take(length), 0)
        for _ in range(head.records - 1):
            header = reader.take(CHECKED_SIZE)
            kind, length = measure(header, order)
            if kind == RecordType.BEGIN:
                raise IndexFaultError("the skeleton of the index has a second BEGIN record")
            if is_external(kind, length, head.inline):
                yield Part(header, b"", length)
            else:
                yield Part(header, reader.take(length) if length else b"", 0)
    except StreamError as error:
        raise IndexFaultError(f"the skeleton of the index is no stream's: {error.message}") from error
    if kind != RecordType.END:
        raise IndexFaultError("the skeleton of the index has no END record")
    reader.finish()


class _Plain:
    """Reads a compressed section in pieces, and never more of it than was announced."""

    def __init__(self, section: memoryview, size: int) -> None:
        self._errors, self._reader = _opened(section)
        self._left = size  # of what is still to be read
        self._buffer = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes. Raises `IndexFaultError` where there are fewer."""
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def finish(self) -> None:
        """Raises `IndexFaultError` unless all was read."""
        if self._left or self._at != len(self._buffer) or self._read(1):
            raise IndexFaultError("a section of the index is longer than it says")

    def _fill(self, size: int) -> None:
        parts = [self._buffer[self._at :]]
        there = len(parts[0])
        while there < size:
            piece = self._read(min(self._left, max(_PIECE, size - there)))
            if not piece:
                raise IndexFaultError("a section of the index is shorter than it says")
            self._left -= len(piece)
            there += len(piece)
            parts.append(piece)
        self._buffer, self._at = b"".join(parts), 0

    def _read(self, size: int) -> bytes:
        try:
            data: bytes = self._reader.read(size)
        except self._errors as error:
            raise IndexFaultError("a section of the index is damaged") from error
        return data


def _opened(section: memoryview) -> tuple[type[Exception], Any]:
    try:
        import zstandard
    except ImportError as error:
        raise IndexFaultError("this installation cannot read zstd") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    return zstandard.ZstdError, decompressor.stream_reader(section, read_size=_PIECE)
