"""Image files as the ZFS streams that are in them, whatever they are compressed with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import UncompressionError
from imgstored.transfer.decompress.feed import Feed
from imgstored.transfer.decompress.serial import BLOCK, decode_serially
from imgstored.transfer.decompress.sniff import HEAD, codec_of
from imgstored.transfer.threaded import workers_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Blocks

Stream = Generator[bytes | memoryview, None, None]


class DecompressLimits(Struct, frozen=True, kw_only=True):
    """Bounds on decompression. Sizes in bytes. What has no default is configured (`LimitsTable`).

    `decoder_memory` is for an xz decoder, or a zstd frame's window; gzip needs some 100 KiB, bzip2 4 MiB.
    Where blocks are decoded side by side, each of the `workers` needs it, and holds one block besides.
    """

    max_image: int  #: of the stream
    max_ratio: int  #: how many times its compressed size a stream may have
    decoder_memory: int
    #: The ratio counts from here on: the start of an image may well be empty.
    ratio_from: int = 64 << 20
    workers: int = 4  #: at most; no more than the machine has processors


class Meter(Struct):
    """What went in and came out so far; may be read from any thread."""

    limits: DecompressLimits
    compressed: int = 0  #: bytes that the decoder was given
    stream: int = 0  #: bytes that it made of them

    def count(self, produced: int) -> None:
        """Adds bytes that came out. Raises `UncompressionError` where they are too many."""
        self.stream += produced
        limits = self.limits
        if self.stream > limits.max_image:
            raise UncompressionError(
                f"the image is larger than {limits.max_image} bytes when uncompressed",
                hint="if it is meant to be, raise the limit on uncompressed bytes in the configuration",
            )
        if self.stream > limits.ratio_from and self.stream > self.compressed * limits.max_ratio:
            raise UncompressionError(
                f"the image file's {self.compressed} bytes so far became {self.stream}: "
                f"more than {limits.max_ratio} times as many",
                hint="if it is meant to be, raise the limit on the compression ratio in the configuration",
            )


def decompressed(blocks: Blocks, meter: Meter, *, accelerated: bool = True) -> Stream:
    """The stream in the image file `blocks`, in pieces of some 1 MiB at most.

    Its content says what it is compressed with. `blocks` is always read to its end before the stream
    ends. Raises `UncompressionError` for a file that is no image file, is damaged, goes on after its end, or
    exceeds the limits of `meter`; what `blocks` raises passes through. Without `accelerated` only the
    standard library decodes, in the caller's thread (but for zstd). Closing the iterator ends its threads.
    """
    with closing(_decoded(Feed(_counted(blocks, meter)), meter.limits, accelerated=accelerated)) as pieces:
        for piece in pieces:
            meter.count(len(piece))
            yield piece


def _counted(blocks: Blocks, meter: Meter) -> Iterator[bytes | bytearray | memoryview]:
    for block in blocks:
        meter.compressed += len(block)
        yield block


def _decoded(feed: Feed, limits: DecompressLimits, *, accelerated: bool) -> Stream:
    """Chooses the decoder; each is loaded when it is first needed."""
    workers = workers_for(limits.workers) if accelerated else 1
    match codec_of(feed.peek(HEAD)):
        case "none":
            yield from _as_they_are(feed)
        case "gzip":
            from imgstored.transfer.decompress.deflate import gzip_format

            yield from decode_serially(feed, gzip_format(accelerated=accelerated))
        case "bzip2":
            from imgstored.transfer.decompress import bzip2

            program = bzip2.program() if accelerated else None
            if program is not None:
                yield from bzip2.decode_by_program(feed, program, workers)
            else:
                yield from decode_serially(feed, bzip2.BZIP2)
        case "xz":
            from imgstored.transfer.decompress import xz

            if workers > 1:
                yield from xz.decode_streams(feed, xz.xz_format(limits.decoder_memory), workers)
            else:
                yield from decode_serially(feed, xz.xz_format(limits.decoder_memory))
        case "zstd":
            from imgstored.transfer.decompress.zstd import zstd_format

            yield from decode_serially(feed, zstd_format(limits.decoder_memory))


def _as_they_are(feed: Feed) -> Iterator[memoryview]:
    while piece := feed.take(BLOCK):
        yield piece
