"""The layers of an image's file: pieces of zstd that stand alone, or the file as it is. No I/O."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from imgstored.create.compress import FRAME
from imgstored.errors import UncompressionError
from imgstored.registry.artifact import Layer
from imgstored.transfer.decompress.meter import PART, Meter
from imgstored.transfer.decompress.zstd import zstd_format

if TYPE_CHECKING:
    from imgstored.transfer.decompress.meter import DecompressLimits

#: Bytes that a decoder may give back at a time.
_OUTPUT: Final = 1 << 20


class Cutter:
    """Reads a file, and says which layers it has; and its size and SHA-1."""

    def __init__(self, compression: str, limits: DecompressLimits | None) -> None:
        self.size = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._frames: _Frames | None = None
        self._errors: tuple[type[Exception], ...] = (UncompressionError,)
        if compression == "zstd" and limits is not None:
            with suppress(UncompressionError):  # zstd is not installed
                self._frames = _Frames(limits)
                self._errors += self._frames.errors

    def feed(self, block: bytes) -> None:
        """The file's next bytes."""
        self.size += len(block)
        self._sha1.update(block)
        self._sha256.update(block)
        if self._frames is not None:
            try:
                self._frames.feed(block)
            except self._errors:
                # What cannot be read here is published as it is; who imports it, says what is wrong.
                self._frames = None

    @property
    def sha1(self) -> str:
        """In lower-case hexadecimal."""
        return self._sha1.hexdigest()

    def layers(self) -> list[Layer]:
        """The layers, once all of the file was fed."""
        pieces = [] if self._frames is None else self._frames.finish()
        if len(pieces) > 1:
            return pieces
        return [Layer(f"sha256:{self._sha256.hexdigest()}", self.size)] if self.size else []


class _Frames:
    """Follows the frames of a file of zstd; each layer has at least `FRAME` bytes of the stream."""

    def __init__(self, limits: DecompressLimits) -> None:
        self._meter = Meter(limits)
        self._format = zstd_format(self._meter)
        self.errors = self._format.errors
        self._frame: Any = None
        self._done: list[Layer] = []
        self._offset = 0  # of the layer in the stream
        self._begin()

    def _begin(self) -> None:
        self._size, self._stream_size = 0, 0
        self._file, self._stream = hashlib.sha256(), hashlib.sha256()

    def feed(self, block: bytes) -> None:
        self._meter.compressed += len(block)
        data = memoryview(block)
        while data:
            if self._frame is None:
                if self._stream_size >= FRAME:
                    self._end()
                self._meter.spend(PART)
                self._frame = self._format.decoder()
            data = self._feed_frame(data)

    def _feed_frame(self, data: memoryview) -> memoryview:
        """Gives the frame what it takes; returns what follows it."""
        piece: bytes | memoryview = data
        while True:
            decoded = self._frame.decompress(piece, _OUTPUT)
            self._meter.count(len(decoded))
            self._stream.update(decoded)
            self._stream_size += len(decoded)
            if self._frame.eof or self._frame.needs_input:
                break
            piece = b""
        rest = data[len(data) - len(self._frame.unused_data) :] if self._frame.eof else data[:0]
        taken = data[: len(data) - len(rest)]
        self._file.update(taken)
        self._size += len(taken)
        if self._frame.eof:
            self._frame = None
        return rest

    def _end(self) -> None:
        self._done.append(
            Layer(
                f"sha256:{self._file.hexdigest()}",
                self._size,
                self._offset,
                self._stream_size,
                f"sha256:{self._stream.hexdigest()}",
            )
        )
        self._offset += self._stream_size
        self._begin()

    def finish(self) -> list[Layer]:
        """The layers; none where the last frame has no end."""
        if self._frame is not None:
            return []
        if self._size:
            self._end()
        return self._done
