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
#: Where a member's header has its flags, and those that nothing may set (RFC 1952, 2.3.1.2).
_FLAGS_AT: Final = 3
_RESERVED: Final = 0xE0


class Inflate:
    """One gzip member, decoded by an object like `zlib.decompressobj`; `error` is what that raises."""

    def __init__(self, inflater: Any, error: type[Exception]) -> None:
        self._inflater = inflater
        self._error = error
        self._taken = 0
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
        if self._taken <= _FLAGS_AT:
            self._check_flags(data)
        decoded: bytes = self._inflater.decompress(self._rest or data, max_length)
        self._rest = self._inflater.unconsumed_tail
        self._filled = len(decoded) == max_length
        return decoded

    def _check_flags(self, data: bytes | memoryview) -> None:
        """Refuses what is reserved, as zlib does: ISA-L takes it."""
        at = _FLAGS_AT - self._taken
        self._taken += len(data)
        if at < len(data) and data[at] & _RESERVED:
            raise self._error("its header has flags that RFC 1952 reserves")


def gzip_format(*, accelerated: bool) -> Format:
    """The decoding of gzip."""
    decompressobj, error = _inflater() if accelerated else (zlib.decompressobj, zlib.error)
    return Format(
        name="gzip",
        begins=lambda head: GZIP_MAGIC.startswith(head[:3]),
        decoder=lambda: Inflate(decompressobj(wbits=_GZIP), error),
        errors=(error,),
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
