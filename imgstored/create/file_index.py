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
    from collections.abc import Callable, Iterator

_BLOCK: Final = 1 << 20
#: Blocks of zstd that are walked through at a time: all of what was read.
_ALL: Final = 1 << 30


def index_of(fd: int, check: Callable[[], object]) -> bytes | None:
    """The index of an open file; None if it cannot have one, as a file that is one frame.

    `check` is called for every block that is read; what it raises ends the call. Raises `OSError`, and
    `NotSupportedError` where this installation cannot read zstd.
    """
    if os.pread(fd, len(ZSTD_MAGIC), 0) != ZSTD_MAGIC:
        return None
    builder = IndexBuilder()
    try:
        for frame in _frames(fd, check):
            content = decompressed(frame)
            builder.feed(content)
            builder.frame(len(frame), len(content))
        return builder.finish()
    except (NotSupportedError, StreamError, IndexFaultError, ValueError):
        return None


def _frames(fd: int, check: Callable[[], object]) -> Iterator[memoryview]:
    """The frames of a file. Raises `ValueError` for one that is too large, and for what is no frame."""
    walk, frame, offset = FrameWalk(), bytearray(), 0
    while block := os.pread(fd, _BLOCK, offset):
        check()
        offset += len(block)
        view = memoryview(block)
        while view:
            if not frame and view[: len(ZSTD_MAGIC)] != ZSTD_MAGIC[: len(view)]:
                raise ValueError("a frame of another kind")
            taken = walk.walk(view, _ALL)
            frame += view[:taken]
            view = view[taken:]
            if len(frame) > MAX_FRAME:
                raise ValueError("a frame that is too large")
            if walk.ended:
                yield memoryview(bytes(frame))
                walk, frame = FrameWalk(), bytearray()
    if frame:
        raise ValueError("a frame that is cut short")
