"""xz, its blocks decoded side by side where they say how long they are, as `xz -T` writes them.

The .xz File Format, 1.2.0: a stream is a header, blocks, an index of the blocks' sizes, and a footer. A block
that states its sizes can be cut out; with a header, an index and a footer of its own it is a stream for
liblzma. (liblzma's own threads are not used: CVE-2025-31115 is in them up to 5.8.0, and its version does not
say whether a distribution has fixed it.)
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from typing import TYPE_CHECKING

from msgspec import Struct, field

from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.decompress.meter import PART, Meter
from imgstored.transfer.decompress.serial import Format, at_end, corrupt, cut_short, decode_part
from imgstored.transfer.decompress.sniff import XZ_MAGIC
from imgstored.transfer.threaded import in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOOTER_MAGIC = b"YZ"
_HEADER_SIZE = 12
_CRC_SIZE = 4
#: Size of a block's check by the check's number (2.1.1.2).
_CHECK_SIZES = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
_HAS_COMPRESSED_SIZE = 0x40
_HAS_UNCOMPRESSED_SIZE = 0x80
#: A multibyte integer has at most 9 bytes (1.2).
_MAX_INTEGER = 9
_PEEK = _HEADER_SIZE + 2 + 2 * _MAX_INTEGER

#: Larger blocks are decoded as they come: `xz -6 -T` makes blocks of 24 MiB, -7 of 48 MiB.
MAX_BLOCK = 32 << 20
#: A stream whose first block is smaller is decoded as it comes: starting threads takes longer than that.
MIN_BLOCK = 16 << 10

#: Pieces of a block's content that wait to be read: all of it, or only one block would be decoded at a time.
_DEPTH = 128


def xz_format(memory: int) -> Format:
    """The decoding of xz, by decoders of at most `memory` bytes each."""

    def decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory)

    return Format("xz", lambda head: XZ_MAGIC.startswith(head[:6]), decoder, (lzma.LZMAError,), padding=4)


def decode_streams(feed: Feed, form: Format, workers: int, meter: Meter) -> Iterator[bytes]:
    """Decodes all of `feed`. Raises `UncompressionError`."""

    def decode(unit: bytearray) -> Iterator[bytes]:
        return decode_part(Feed([unit]), form)

    def counted() -> Iterator[bytearray]:
        for unit in units(feed):
            meter.spend(PART)
            yield unit

    while True:
        meter.spend(PART)
        if is_divisible(feed.peek(_PEEK)):
            yield from in_parallel(counted(), decode, workers, _DEPTH)
        else:
            yield from decode_part(feed, form)
        if at_end(feed, form):
            return


def is_divisible(head: bytes) -> bool:
    """True if the stream that begins with `head` (32 bytes) has a first block of known and moderate size."""
    block = head[_HEADER_SIZE:]
    if len(head) < _PEEK or not block[0]:
        return False
    sizes = _stated_sizes(block)
    return sizes is not None and max(sizes) <= MAX_BLOCK and sizes[1] >= MIN_BLOCK


def units(feed: Feed) -> Iterator[bytearray]:
    """The blocks of one stream, each as a stream of its own. Raises `UncompressionError`."""
    try:
        header = feed.exactly(_HEADER_SIZE)
        _check_header(header)
        seen = _Index()
        while size := feed.peek(1)[:1].strip(b"\0"):
            yield _unit(feed, header, (size[0] + 1) * 4, seen)
        _read_index(feed, header, seen)
    except EOFError as error:
        raise cut_short("xz", feed.position) from error


class _Index(Struct):
    """The index that a stream must have: kept as a hash, for a stream may have very many blocks."""

    count: int = 0
    size: int = 0  #: of the records, in bytes
    records: hashlib.blake2b = field(default_factory=hashlib.blake2b)

    def add(self, record: bytes) -> None:
        self.count += 1
        self.size += len(record)
        self.records.update(record)


def _check_header(header: bytes) -> None:
    flags = header[6:8]
    if header[:6] != XZ_MAGIC or flags[0] or flags[1] > 15 or header[8:] != _crc(flags):
        raise corrupt("xz", "a damaged stream header")


def _unit(feed: Feed, stream_header: bytes, header_size: int, seen: _Index) -> bytearray:
    """Reads a block; returns it as a stream. What is in the block is liblzma's to check."""
    header = feed.exactly(header_size)
    if header[-_CRC_SIZE:] != _crc(header[:-_CRC_SIZE]):
        raise corrupt("xz", "a damaged block header")
    sizes = _stated_sizes(header)
    if sizes is None:
        raise corrupt("xz", "a block that does not state its size follows one that does")
    compressed, uncompressed = sizes
    # What cannot be compressed grows a little.
    if compressed > MAX_BLOCK + (MAX_BLOCK >> 4):
        raise corrupt("xz", f"a block of {compressed} bytes follows smaller ones")
    check = _CHECK_SIZES[stream_header[7]]
    unit = bytearray(stream_header + header)
    feed.append_to(unit, compressed + -compressed % 4 + check)
    record = _integer(header_size + compressed + check) + _integer(uncompressed)
    seen.add(record)
    index = _index_of(1, record)
    unit += index + _footer(stream_header, len(index))
    return unit


def _read_index(feed: Feed, header: bytes, seen: _Index) -> None:
    """Reads index and footer, and compares them with the blocks that came before."""
    # With the blocks known, there is only one index that is right.
    before = b"\0" + _integer(seen.count)
    found = feed.exactly(len(before))
    crc = zlib.crc32(found)
    records = hashlib.blake2b()
    left = seen.size
    while left:
        piece = feed.take(left)
        if not piece:
            raise EOFError
        crc = zlib.crc32(piece, crc)
        records.update(piece)
        left -= len(piece)
    padding = -(len(before) + seen.size) % 4
    zeros = feed.exactly(padding)
    crc = zlib.crc32(zeros, crc)
    size = len(before) + seen.size + padding + _CRC_SIZE
    end = feed.exactly(_CRC_SIZE) + feed.exactly(_HEADER_SIZE)
    right = struct.pack("<I", crc) + _footer(header, size)
    if found != before or any(zeros) or records.digest() != seen.records.digest() or end != right:
        raise corrupt("xz", "the index does not match the blocks")


def _stated_sizes(block_header: bytes) -> tuple[int, int] | None:
    """Compressed and uncompressed size, where the header has both (3.1.2 to 3.1.4)."""
    wanted = _HAS_COMPRESSED_SIZE | _HAS_UNCOMPRESSED_SIZE
    if block_header[1] & wanted != wanted:
        return None
    try:
        compressed, offset = _parse_integer(block_header, 2)
        uncompressed, _ = _parse_integer(block_header, offset)
    except (ValueError, IndexError) as error:
        raise corrupt("xz", "a damaged block header") from error
    return compressed, uncompressed


def _parse_integer(data: bytes, offset: int) -> tuple[int, int]:
    """A multibyte integer, and where it ends. Raises `ValueError`, or `IndexError` at the end of `data`."""
    value = 0
    for count in range(_MAX_INTEGER):
        byte = data[offset + count]
        value |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            return value, offset + count + 1
    raise ValueError("too long an integer")


def _integer(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _index_of(count: int, records: bytes) -> bytes:
    index = b"\0" + _integer(count) + records
    index += bytes(-len(index) % 4)
    return index + _crc(index)


def _footer(header: bytes, index_size: int) -> bytes:
    backward = struct.pack("<I", index_size // 4 - 1) + header[6:8]
    return _crc(backward) + backward + _FOOTER_MAGIC


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))
