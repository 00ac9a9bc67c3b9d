"""zstd (RFC 8878), one frame after another, with the zstandard package.

The package's `decompressobj` returns all that its input decodes to, and 4 bytes may be a block of 128 KiB. So
the input is cut so that only a few blocks end in what it is given at a time; this needs no more of the format
than the lengths of headers and blocks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from imgstored.errors import UncompressionError
from imgstored.transfer.decompress.serial import Format
from imgstored.transfer.decompress.sniff import SKIPPABLE_MAGIC, ZSTD_MAGIC, begins_zstd_frame

if TYPE_CHECKING:
    from imgstored.transfer.decompress.meter import Meter

#: Block_Maximum_Size (RFC 8878, 3.1.1.2.4).
BLOCK_MAX = 128 << 10

_RLE_BLOCK = 1
_RESERVED_BLOCK = 3


class _At(enum.Enum):
    """The kind of the next bytes of a frame."""

    MAGIC = enum.auto()
    DESCRIPTOR = enum.auto()
    BLOCK_HEADER = enum.auto()
    BLOCK = enum.auto()
    REST = enum.auto()  #: a checksum, or a skippable frame's content
    SKIPPABLE_SIZE = enum.auto()
    END = enum.auto()


class FrameWalk(Struct):
    """Follows a frame through its headers. Pure."""

    skippable: bool = False
    blocks: int = 0  #: that have ended
    _at: _At = _At.MAGIC
    _field: bytearray = field(default_factory=bytearray)  #: the part of a header that is there so far
    _left: int = 4  #: bytes until `_at` ends
    _has_checksum: bool = False
    _is_last: bool = False

    @property
    def ended(self) -> bool:
        """True if the frame is complete."""
        return self._at is _At.END

    def walk(self, data: memoryview, blocks: int) -> int:
        """Follows `data`; returns how much of it belongs to the frame until `blocks` more blocks have ended.

        Raises `ValueError` for a block that is not allowed.
        """
        offset = 0
        while blocks and offset < len(data) and not self.ended:
            step = min(self._left, len(data) - offset)
            if self._at not in (_At.BLOCK, _At.REST):
                self._field += data[offset : offset + step]
            offset += step
            self._left -= step
            while not self._left and not self.ended:
                if self._at is _At.BLOCK:
                    blocks -= 1
                    self.blocks += 1
                self._next()
        return offset

    def _next(self) -> None:
        read, self._field = bytes(self._field), bytearray()
        match self._at:
            case _At.MAGIC if read == ZSTD_MAGIC:
                self._go(_At.DESCRIPTOR, 1)
            case _At.MAGIC:
                self.skippable = True
                self._go(_At.SKIPPABLE_SIZE, 4)
            case _At.SKIPPABLE_SIZE:
                self._go(_At.REST, int.from_bytes(read, "little"))
            case _At.DESCRIPTOR if len(read) == 1:
                self._has_checksum = bool(read[0] & 0x04)
                # Kept, so that the whole of the header is read as one field.
                self._field += read
                self._go(_At.DESCRIPTOR, _header_rest(read[0]))
            case _At.DESCRIPTOR:
                self._go(_At.BLOCK_HEADER, 3)
            case _At.BLOCK_HEADER:
                self._block(int.from_bytes(read, "little"))
            case _At.BLOCK if not self._is_last:
                self._go(_At.BLOCK_HEADER, 3)
            case _At.BLOCK if self._has_checksum:
                self._go(_At.REST, 4)
            case _:
                self._go(_At.END, 0)

    def _block(self, header: int) -> None:
        """Block_Header: last (1 bit), type (2), size (21), little-endian (RFC 8878, 3.1.1.2)."""
        self._is_last = bool(header & 1)
        kind, size = header >> 1 & 3, header >> 3
        if kind == _RESERVED_BLOCK or size > BLOCK_MAX:
            raise ValueError(f"a block of type {kind} and {size} bytes")
        self._go(_At.BLOCK, 1 if kind == _RLE_BLOCK else size)

    def _go(self, state: _At, length: int) -> None:
        self._at, self._left = state, length


def _header_rest(descriptor: int) -> int:
    """Bytes of a frame's header after its descriptor (RFC 8878, 3.1.1.1): never 0."""
    size_flag, single_segment, dictionary_flag = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    content_size = (single_segment, 2, 4, 8)[size_flag]
    return (1 - single_segment) + (0, 1, 2, 4)[dictionary_flag] + content_size


class ZstdFrame:
    """Decodes one frame."""

    def __init__(self, decoder: Any, meter: Meter) -> None:
        self._decoder = decoder
        self._meter = meter
        self._walk = FrameWalk()
        self._input = memoryview(b"")

    @property
    def eof(self) -> bool:
        """As `Decoder.eof`."""
        return self._walk.ended

    @property
    def needs_input(self) -> bool:
        """As `Decoder.needs_input`."""
        return not self._input

    @property
    def unused_data(self) -> bytes:
        """As `Decoder.unused_data`."""
        return bytes(self._input)

    def decompress(self, data: bytes | memoryview, /, max_length: int) -> bytes:
        """As `Decoder.decompress`."""
        self._input = self._input or memoryview(data)
        before = self._walk.blocks
        taken = self._walk.walk(self._input, max(1, max_length // BLOCK_MAX))
        self._meter.spend(self._walk.blocks - before)
        piece, self._input = self._input[:taken], self._input[taken:]
        if self._walk.skippable:
            return b""
        decoded: bytes = self._decoder.decompress(piece)
        if self.eof and not self._decoder.eof:
            raise ValueError("its frame does not end where its blocks do")
        return decoded


def _may_begin(head: bytes) -> bool:
    """True if `head` begins a frame, or would if it were longer."""
    return any(begins_zstd_frame(head + magic[len(head) :]) for magic in (ZSTD_MAGIC, SKIPPABLE_MAGIC))


def zstd_format(meter: Meter) -> Format:
    """The decoding of zstd, with windows of at most `decoder_memory` bytes.

    Raises `UncompressionError` if the zstandard package is not there.
    """
    try:
        import zstandard
    except ImportError as error:
        raise UncompressionError(
            "the image file is compressed with zstd, which this installation cannot read",
            hint='install the Python package "zstandard" where imgstored is installed',
        ) from error

    def decoder() -> ZstdFrame:
        window = meter.limits.decoder_memory
        return ZstdFrame(zstandard.ZstdDecompressor(max_window_size=window).decompressobj(), meter)

    return Format("zstd", _may_begin, decoder, (zstandard.ZstdError, ValueError), padding=0)
