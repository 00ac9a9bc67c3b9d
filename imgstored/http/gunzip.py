"""Decoding of Content-Encoding: gzip with a bound on what comes out. Pure."""

from __future__ import annotations

import zlib

#: The names of gzip as a Content-Encoding (RFC 9110, 8.4.1.3).
CODINGS = frozenset({"gzip", "x-gzip"})

#: zlib: a gzip header is expected, and the largest window.
WINDOW = 16 + zlib.MAX_WBITS

#: The first byte of gzip (RFC 1952, 2.3.1).
_MAGIC = b"\x1f"


#: Pieces that a body may come in, beside one for each so many bytes. Each costs its reader some 20 µs, and
#: may have a single byte; a server that writes JSON piece by piece may send a few bytes at a time.
_PIECES = 1 << 18
_PIECE = 1 << 10


class TooManyPiecesError(Exception):
    """The body comes in more pieces than are worth the time."""


class TooLargeError(Exception):
    """More came, or came out, than is allowed."""


class NotGzipError(Exception):
    """The bytes are not what gzip writes, or end in the middle."""


class Body:
    """A document's body as it comes in: at most `limit` bytes, before and after decoding.

    With `gzip`, the body is decoded if it begins as gzip does.
    """

    def __init__(self, limit: int, *, gzip: bool) -> None:
        self._limit = limit
        self._decoder = zlib.decompressobj(WINDOW) if gzip else None
        self._inside = False  #: in the middle of a gzip member
        self.pieces = 0  #: that came in
        self._taken = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes. Raises `TooLargeError`, `TooManyPiecesError` or `NotGzipError`."""
        if not data:
            return
        if self._taken == 0 and data[:1] != _MAGIC:
            # A server that calls a plain text gzip: no JSON begins like that.
            self._decoder = None
        self._taken += len(data)
        self.pieces += 1
        if self.pieces > _PIECES + self._taken // _PIECE:
            raise TooManyPiecesError
        if self._taken > self._limit:
            raise TooLargeError
        if self._decoder is None:
            self._keep(data)
            return
        while data:
            self._inside = True
            try:
                self._keep(self._decoder.decompress(data, self._limit - self._size + 1))
            except zlib.error as error:
                raise NotGzipError from error
            data = self._decoder.unused_data
            if self._decoder.eof:
                self._decoder = zlib.decompressobj(WINDOW)
                self._inside = False

    def finish(self) -> bytes:
        """The whole body. Raises `NotGzipError` when it ends in the middle of a member."""
        if self._inside:
            raise NotGzipError
        return b"".join(self._pieces)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise TooLargeError
        if data:
            self._pieces.append(data)
