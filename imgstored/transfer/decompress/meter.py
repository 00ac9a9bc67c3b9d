"""The bounds on decompression, and how much of them one file has used."""

from __future__ import annotations

from msgspec import Struct

from imgstored.errors import UncompressionError

#: Steps that beginning a part takes: a frame, a member, a stream, or a block with a decoder of its own.
PART = 16


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
    #: Steps that are allowed (`PART`), and bytes of the stream that allow one more. Compressors make parts of
    #: 64 KiB and more, and blocks of 1 KiB and more.
    free_steps: int = 4096 * PART
    step: int = 256


class Meter(Struct):
    """The bytes that went in and came out so far; may be read from any thread."""

    limits: DecompressLimits
    compressed: int = 0  #: bytes that the decoder was given
    stream: int = 0  #: bytes that it made of them
    steps: int = 0  #: that it took

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

    def spend(self, steps: int) -> None:
        """Adds steps of the daemon. Raises `UncompressionError` where they are too many for what came out.

        A part that decodes to nothing may have 8 bytes and take 20 microseconds: files of these would keep a
        processor busy for days.
        """
        self.steps += steps
        if self.steps > self.limits.free_steps + self.stream // self.limits.step:
            raise UncompressionError(
                f"the image file has too many parts: its {self.compressed} bytes so far became only "
                f"{self.stream}",
                hint="compress the stream again, as one part",
            )
