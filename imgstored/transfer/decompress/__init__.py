"""Image files as the ZFS streams that are in them, whatever they are compressed with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.decompress.meter import DecompressLimits, Meter
from imgstored.transfer.decompress.serial import BLOCK, decode_serially
from imgstored.transfer.decompress.sniff import HEAD, Contents, codec_of
from imgstored.transfer.threaded import workers_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Blocks

__all__ = ["Contents", "DecompressLimits", "Meter", "Stream", "decompressed"]

Stream = Generator[bytes | memoryview, None, None]


def decompressed(
    blocks: Blocks, meter: Meter, *, accelerated: bool = True, contents: Contents = "stream"
) -> Stream:
    """The stream in the image file `blocks`, in pieces of some 1 MiB at most.

    Its content says what it is compressed with. `blocks` is always read to its end before the stream
    ends. Raises `UncompressionError` for a file that is no image file, is damaged, goes on after its end, or
    exceeds the limits of `meter`; what `blocks` raises passes through. Without `accelerated` only the
    standard library decodes, in the caller's thread (but for zstd). `contents` says what else than a stream
    may be in the file. Closing the iterator ends its threads.
    """
    feed = Feed(_counted(blocks, meter))
    with closing(_decoded(feed, meter, accelerated=accelerated, contents=contents)) as pieces:
        for piece in pieces:
            meter.count(len(piece))
            yield piece


def _counted(blocks: Blocks, meter: Meter) -> Iterator[bytes | bytearray | memoryview]:
    for block in blocks:
        meter.compressed += len(block)
        yield block


def _decoded(feed: Feed, meter: Meter, *, accelerated: bool, contents: Contents) -> Stream:
    """Chooses the decoder; each is loaded when it is first needed."""
    limits = meter.limits
    workers = workers_for(limits.workers) if accelerated else 1
    match codec_of(feed.peek(HEAD), contents=contents):
        case "none":
            yield from _as_they_are(feed)
        case "gzip":
            from imgstored.transfer.decompress.deflate import gzip_format

            yield from decode_serially(feed, gzip_format(accelerated=accelerated), meter)
        case "bzip2":
            from imgstored.transfer.decompress import bzip2

            program = bzip2.program() if accelerated else None
            if program is not None:
                yield from bzip2.decode_by_program(feed, program, workers)
            else:
                yield from decode_serially(feed, bzip2.BZIP2, meter)
        case "xz":
            from imgstored.transfer.decompress import xz

            form = xz.xz_format(limits.decoder_memory)
            if workers > 1:
                yield from xz.decode_streams(feed, form, workers, meter)
            else:
                yield from decode_serially(feed, form, meter)
        case "zstd":
            from imgstored.transfer.decompress.zstd import zstd_format

            yield from decode_serially(feed, zstd_format(meter), meter)


def _as_they_are(feed: Feed) -> Iterator[memoryview]:
    while piece := feed.take(BLOCK):
        yield piece
