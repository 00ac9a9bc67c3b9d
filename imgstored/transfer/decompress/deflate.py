"""gzip, with ISA-L's inflate where it is installed (twice as fast), else zlib's."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from imgstored.transfer.decompress.serial import Format
from imgstored.transfer.decompress.sniff import GZIP_MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable

#: 16 for a gzip header and trailer, 15 for windows up to 32 KiB (zlib.h, inflateInit2).
_GZIP = 16 + 15
#: Where a member's header has its flags; the flag for a checksum of the header; and those that nothing may
#: set (RFC 1952, 2.3.1.2).
_FLAGS_AT: Final = 3
_HEADER_CRC: Final = 0x02
_RESERVED: Final = 0xE0


class Inflate:
    """One gzip member, decoded by an object like `zlib.decompressobj`. It raises `zlib.error`, too."""

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater
        self._head = b""
        self._is_read = False
        self._rest: bytes | memoryview = b""
        self._filled = False

    @property
    def eof(self) -> bool:
        """As `Decoder.eof`."""
        return bool(self._inflater.eof)

    @property
    def needs_input(self) -> bool:
        """As `Decoder.needs_input`."""
        # After a full answer more may come out of what the decoder holds.
        return not self._rest and not self._filled

    @property
    def unused_data(self) -> bytes:
        """As `Decoder.unused_data`."""
        return bytes(self._inflater.unused_data)

    def decompress(self, data: bytes | memoryview, /, max_length: int) -> bytes:
        """As `Decoder.decompress`."""
        if not self._is_read:
            data = self._past_flags(data)
        decoded: bytes = self._inflater.decompress(self._rest or data, max_length)
        self._rest = self._inflater.unconsumed_tail
        self._filled = len(decoded) == max_length
        return decoded

    def _past_flags(self, data: bytes | memoryview) -> bytes | memoryview:
        """Checks the flags once they are there, and returns what is to be decoded now.

        ISA-L takes reserved flags, and passes over the checksum of a header: such a member is zlib's, which
        gets it from its beginning.
        """
        at = _FLAGS_AT - len(self._head)
        if at >= len(data):
            self._head += data
            return data
        self._is_read = True
        if data[at] & _RESERVED:
            raise zlib.error("its header has flags that RFC 1952 reserves")
        if data[at] & _HEADER_CRC:
            self._inflater = zlib.decompressobj(wbits=_GZIP)
            return b"".join((self._head, data))
        return data


def gzip_format(*, accelerated: bool) -> Format:
    """The decoding of gzip."""
    decompressobj, error = _inflater() if accelerated else (zlib.decompressobj, zlib.error)
    return Format(
        name="gzip",
        begins=lambda head: GZIP_MAGIC.startswith(head[:3]),
        decoder=lambda: Inflate(decompressobj(wbits=_GZIP)),
        errors=(error, zlib.error),
        padding=1,
        padding_ends=True,
    )


def _inflater() -> tuple[Callable[..., Any], type[Exception]]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj, zlib.error
    # Its stub takes the class for an instance.
    error: Any = isal_zlib.error
    return isal_zlib.decompressobj, error
