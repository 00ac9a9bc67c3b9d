"""A Content-Encoding that a server put around the file's bytes, and that nobody asked for. Pure.

Most servers that send one mean the file itself: Apache calls each .gz file `x-gzip`. So the header decides
nothing. The encoding is undone only where the bytes prove that it was added: their number is not that of the
file, or a compressed file shows below it. The file's size and checksum have the last word.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from imgstored.http import gunzip
from imgstored.http.range_reply import OTHER_FILE, FetchError
from imgstored.transfer.decompress.sniff import BZIP2_MAGIC, GZIP_MAGIC, XZ_MAGIC, ZSTD_MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.http.range_reply import RangeReply

#: How compressed image files begin; the last is lz4.
_COMPRESSED = (GZIP_MAGIC, BZIP2_MAGIC, XZ_MAGIC, ZSTD_MAGIC, b"\x04\x22\x4d\x18")

#: Bytes that are decoded at a time, and of which the beginning is looked at.
_PIECE = 1 << 20
_HEAD = 8
_MOST_HEAD = 64 << 10


def may_be_added(reply: RangeReply, size: int | None) -> bool:
    """True if the whole of a file of `size` bytes may come in gzip that is not its own."""
    return not reply.partial and reply.encoding in gunzip.CODINGS and size is not None and reply.total != size


class Uncoded:
    """Takes the bytes of an answer for which `may_be_added` holds, and gives the file's to `sink`."""

    def __init__(self, sink: Callable[[memoryview], None], *, certain: bool) -> None:
        """`certain`: the number of bytes proves that the encoding was added."""
        self._sink = sink
        self._decoder = zlib.decompressobj(gunzip.WINDOW)
        self._begun: bytes | None = b""  #: the answer's first bytes, until it is decided; None: decided
        self._added = certain
        if certain:
            self._begun = None

    def feed(self, data: memoryview) -> None:
        """Takes the next bytes. Raises `FetchError` for what is no gzip, and what the sink raises."""
        if self._begun is not None:
            self._begun += data
            added = _is_added(self._begun)
            if added is None:
                return
            self._added, data, self._begun = added, memoryview(self._begun), None
        if self._added:
            self._decode(bytes(data))
        else:
            self._sink(data)

    def finish(self) -> None:
        """Gives on what was too short to be decided. Raises what the sink raises."""
        if self._begun:
            self._sink(memoryview(self._begun))

    def _decode(self, data: bytes) -> None:
        while data:
            try:
                piece = self._decoder.decompress(data, _PIECE)
            except zlib.error as error:
                raise FetchError(
                    "sends another number of bytes than the file has, and no gzip, as it says",
                    hint=OTHER_FILE,
                    other_size=True,
                ) from error
            if piece:
                self._sink(memoryview(piece))
            data = self._decoder.unconsumed_tail
            if self._decoder.eof:
                data = self._decoder.unused_data
                self._decoder = zlib.decompressobj(gunzip.WINDOW)


def _is_added(begun: bytes) -> bool | None:
    """True if gzip was put around a compressed file that begins so; None: more bytes are needed."""
    try:
        head = zlib.decompressobj(gunzip.WINDOW).decompress(begun, _HEAD)
    except zlib.error:
        return False
    if len(head) < _HEAD and len(begun) < _MOST_HEAD:
        return None
    return head.startswith(_COMPRESSED)
