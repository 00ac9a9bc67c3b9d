"""Compresses a stream on all processors, in bounded memory.

A file is cut into blocks that are compressed side by side: gzip members, bzip2 and xz streams, one after
another. Every program that reads these formats reads them so. zstd compresses one frame after another, with
all processors each: a frame has whole records of the stream, so that it can be a layer in a registry.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from imgstored.create.frames import in_frames
from imgstored.delta.build import FrameCutter
from imgstored.errors import UsageError
from imgstored.transfer.threaded import workers_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgstored.delta.build import IndexBuilder

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

_MIB: Final = 1 << 20
#: Bytes that all threads together may take.
_MEMORY: Final = 1 << 30

#: An image is made once and fetched often: as small as the programs' own default, or better.
_GZIP_LEVEL: Final = 6
_XZ_PRESET: Final = 6
_ZSTD_LEVEL: Final = 9

#: Bytes of the stream in a frame of zstd, up to the end of a record: a layer in a registry, which transfers
#: well, and few enough that a changed image shares most of them.
FRAME: Final = 64 * _MIB


class _Method(Struct, frozen=True):
    compress: Callable[[bytes], bytes]
    block: int  #: bytes that are compressed by themselves
    memory: int  #: bytes that this takes


_METHODS: Final = {
    "gzip": _Method(lambda block: gzip.compress(block, _GZIP_LEVEL, mtime=0), _MIB, 4 * _MIB),
    # What fits one of bzip2's own blocks, but for bytes that its first step can make longer.
    "bzip2": _Method(lambda block: bz2.compress(block, 9), 900_000, 12 * _MIB),
    # Twice the dictionary: smaller blocks would cost a good part of what xz is taken for.
    "xz": _Method(lambda block: lzma.compress(block, preset=_XZ_PRESET), 16 * _MIB, 128 * _MIB),
}


def compressed(blocks: Iterable[Buffer], compression: str, workers: int = 64) -> Iterator[Buffer]:
    """The blocks, which have any length, compressed by at most `workers` threads.

    Closing the iterator ends all threads; `blocks` is not closed. Raises `UsageError` for a compression that
    is not there, and what `blocks` raises.
    """
    workers = workers_for(workers)
    if compression == "none":
        return iter(blocks)
    if compression == "zstd":
        return _zstd(blocks, workers)
    method = _METHODS[compression]
    return _side_by_side(blocks, method, max(1, min(workers, _MEMORY // method.memory)))


def _side_by_side(blocks: Iterable[Buffer], method: _Method, workers: int) -> Iterator[bytes]:
    return _in_order(_cut(blocks, method.block), method.compress, workers)


def _in_order(blocks: Iterable[bytes], work: Callable[[bytes], T], workers: int) -> Iterator[T]:
    """The result of `work` for each block, in `workers` threads."""
    running: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="compress") as executor:
        try:
            for block in blocks:
                running.append(executor.submit(work, block))
                if len(running) > workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _cut(blocks: Iterable[Buffer], size: int) -> Iterator[bytes]:
    """The same bytes in blocks of `size`, the last one shorter; one block where there are no bytes."""
    waiting = bytearray()
    first = True
    for block in blocks:
        waiting += block
        while len(waiting) >= size:
            yield bytes(memoryview(waiting)[:size])
            first = False
            del waiting[:size]
    if waiting or first:
        yield bytes(waiting)


def compressed_with_index(
    blocks: Iterable[Buffer], builder: IndexBuilder, workers: int = 64
) -> Iterator[Buffer]:
    """The blocks of a stream in frames of zstd, each of whole records; `builder` gets what an index needs.

    Closing the iterator ends all threads; `blocks` is not closed. Raises `UsageError` where zstd is not
    there, what `builder` raises, and what `blocks` raises.
    """
    local = threading.local()
    _zstd_compressor(0)  # raises here and not in a thread

    def compress(content: bytes) -> tuple[bytes, int]:
        if not hasattr(local, "compressor"):
            local.compressor = _zstd_compressor(0)
        return local.compressor.compress(content), len(content)

    for frame, size in _in_order(_contents(blocks, builder), compress, workers_for(workers)):
        builder.frame(len(frame), size)
        yield frame


def _contents(blocks: Iterable[Buffer], builder: IndexBuilder) -> Iterator[bytes]:
    cutter = FrameCutter()
    for block in blocks:
        yield from cutter.feed(builder.feed(block))
    yield from cutter.finish()


def _zstd(blocks: Iterable[Buffer], workers: int) -> Iterator[bytes]:
    compressor: Any = _zstd_compressor(workers).compressobj()
    frames, is_new = 0, True
    for block, ends in in_frames(blocks, FRAME):
        if piece := compressor.compress(block):
            yield piece
        is_new = False
        if ends:
            yield compressor.flush()
            compressor, frames, is_new = _zstd_compressor(workers).compressobj(), frames + 1, True
    if not is_new or not frames:
        yield compressor.flush()


def _zstd_compressor(workers: int) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UsageError(
            "this installation cannot compress with zstd",
            hint='install the Python package "zstandard" where imgstored is installed, or use another -c',
        ) from error
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=workers, write_checksum=True)
