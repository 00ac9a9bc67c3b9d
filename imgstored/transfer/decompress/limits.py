"""How much an image file may turn into. Pure: counts, and says when it is too much."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgstored.errors import UncompressionError


@dataclass(frozen=True, slots=True)
class DecompressLimits:
    """Bounds on decompression. Sizes in bytes.

    A decoder's memory is bounded by `memory` (xz) or `window` (zstd); gzip needs some 100 KiB, bzip2 4 MiB.
    Where blocks are decoded side by side, each of the `workers` needs it, and holds one block besides.
    """

    max_output: int = 1 << 40
    #: How many times its compressed size a stream may have. Disk images with much that is zero reach 250.
    max_ratio: int = 500
    #: The ratio counts from here on: the start of an image may well be empty.
    ratio_from: int = 64 << 20
    memory: int = 96 << 20
    window: int = 128 << 20
    workers: int = 4  #: at most; no more than the machine has processors


@dataclass(slots=True)
class Meter:
    """What went in and came out so far; may be read from any thread."""

    limits: DecompressLimits = field(default_factory=DecompressLimits)
    compressed: int = 0  #: bytes that the decoder was given
    stream: int = 0  #: bytes that it made of them

    def count(self, produced: int) -> None:
        """Adds bytes that came out. Raises `UncompressionError` where they are too many."""
        self.stream += produced
        limits = self.limits
        if self.stream > limits.max_output:
            raise UncompressionError(
                f"the image is larger than {limits.max_output} bytes when uncompressed",
                hint="if it is meant to be, raise the limit on uncompressed bytes in the configuration",
            )
        if self.stream > limits.ratio_from and self.stream > self.compressed * limits.max_ratio:
            raise UncompressionError(
                f"the image file's {self.compressed} bytes so far became {self.stream}: "
                f"more than {limits.max_ratio} times as many",
                hint="if it is meant to be, raise the limit on the compression ratio in the configuration",
            )
