"""Compressed files in every format of images."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import random
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from imgstored.transfer.decompress import DecompressLimits, Meter, decompressed
from tests.support.limits import decompress_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that compress to a third or so, always the same ones."""
    source = random.Random(seed)
    words = [source.randbytes(source.randint(2, 9)) for _ in range(300)]
    return b"".join(source.choices(words, k=size // 4))[:size]


def xz_in_blocks(data: bytes, block: int = 20_000) -> bytes:
    """As `xz -T` compresses: blocks that state their sizes."""
    command = ["xz", "-T2", f"--block-size={block}", "-c"]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def zstd(data: bytes) -> bytes:
    """With a checksum, as the `zstd` program does."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of compressed file."""

    name: str
    codec: str  #: its name in messages
    compressor: Callable[[bytes], bytes]

    def compress(self, data: bytes) -> bytes:
        """A file of this kind."""
        return _compressed(self.compressor, data)


@functools.lru_cache(maxsize=200)
def _compressed(compressor: Callable[[bytes], bytes], data: bytes) -> bytes:
    return compressor(data)


KINDS = [
    Kind("gzip", "gzip", lambda data: gzip.compress(data, mtime=0)),
    # Blocks of 100,000 bytes.
    Kind("bzip2", "bzip2", lambda data: bz2.compress(data, 1)),
    Kind("xz", "xz", lzma.compress),
    Kind("xz-blocks", "xz", xz_in_blocks),
    Kind("zstd", "zstd", zstd),
]


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


def decode(
    blocks: Iterable[bytes], limits: DecompressLimits | None = None, *, accelerated: bool = True
) -> bytes:
    """All of the stream."""
    return b"".join(decompressed(blocks, Meter(limits or decompress_limits()), accelerated=accelerated))
