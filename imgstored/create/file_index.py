"""Makes the index of an image's file that is there already. Blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from imgstored.delta.build import IndexBuilder
from imgstored.delta.index import MAX_FRAME, IndexFaultError, decompressed
from imgstored.errors import NotSupportedError, StreamError
from imgstored.transfer.decompress.sniff import ZSTD_MAGIC
from imgstored.transfer.decompress.zstd import FrameWalk

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK: Final = 1 << 20
#: What a file that can have no index is found by.
_NO_INDEX: Final = (NotSupportedError, StreamError, IndexFaultError, ValueError)
#: Blocks of zstd that are walked through at a time: all of what was read.
_ALL: Final = 1 << 30


class FileIndexer:
    """Gets an image's file from its first byte. Then `finish` gives its index."""

    def __init__(self) -> None:
        self._builder: IndexBuilder | None = None
        self._odd = False  # it can have no index
        self._walk = FrameWalk()
        self._frame = bytearray()

    def feed(self, block: bytes) -> None:
        """Adds bytes. Raises `NotSupportedError` where this installation cannot read zstd."""
        view = memoryview(block)
        while view and not self._odd:
            if not self._frame and view[: len(ZSTD_MAGIC)] != ZSTD_MAGIC[: len(view)]:
                self._odd = True
                return
            if self._builder is None:
                self._builder = IndexBuilder()
            try:
                view = self._add(self._builder, view)
            except _NO_INDEX:
                self._odd = True

    def _add(self, builder: IndexBuilder, view: memoryview) -> memoryview:
        """Adds bytes up to the end of a frame; returns those behind it."""
        taken = self._walk.walk(view, _ALL)
        self._frame += view[:taken]
        if len(self._frame) > MAX_FRAME:
            raise ValueError("a frame that is too large")
        if self._walk.ended:
            content = decompressed(self._frame)
            builder.feed(content)
            builder.frame(len(self._frame), len(content))
            self._walk, self._frame = FrameWalk(), bytearray()
        return view[taken:]

    def finish(self) -> bytes | None:
        """The index; None if the file cannot have one, as a file that is one frame, or has ended too soon."""
        if self._odd or self._builder is None or self._frame:
            return None
        try:
            return self._builder.finish()
        except _NO_INDEX:
            return None


def index_of(fd: int, check: Callable[[], object]) -> bytes | None:
    """The index of an open file; None if it cannot have one.

    `check` is called for every block that is read; what it raises ends the call. Raises `OSError`, and
    `NotSupportedError` where this installation cannot read zstd.
    """
    if os.pread(fd, len(ZSTD_MAGIC), 0) != ZSTD_MAGIC:
        return None
    indexer, offset = FileIndexer(), 0
    while block := os.pread(fd, _BLOCK, offset):
        check()
        offset += len(block)
        indexer.feed(block)
    return indexer.finish()
