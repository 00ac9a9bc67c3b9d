"""Fletcher-4, the checksum of ZFS send streams (OpenZFS module/zcommon/zfs_fletcher.c).

Over 32-bit words w: a += w, b += a, c += b, d += c, all modulo 2**64. NumPy makes it some seventy times as
fast as plain Python; without it the result is the same.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview
Sums = tuple[int, int, int, int]
ByteOrder = Literal["<", ">"]

_MASK = (1 << 64) - 1
#: Words that are summed in one go: 128 KiB, the payload of most records.
_BATCH = 32768


class Fletcher4:
    """A running checksum. `sums` can be kept, and a later one started from it."""

    __slots__ = ("_add", "_order", "sums")

    def __init__(self, byte_order: ByteOrder = "<", sums: Sums = (0, 0, 0, 0)) -> None:
        self.sums = sums
        self._order: ByteOrder = byte_order
        self._add = _arithmetic()

    def update(self, data: Buffer) -> None:
        """Adds `data`, whose length is a multiple of 4 bytes. Raises `ValueError` for another length."""
        if len(data) % 4:
            raise ValueError(f"fletcher-4 is over whole 32-bit words, not {len(data)} bytes")
        self.sums = self._add.whole(self._order, self.sums, data)

    def update_noting(self, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """Adds `data`, and returns the sums after its first `places[0]` bytes, `places[1]`, and so on.

        Places rise, are multiples of 4, and lie in 4 to `len(data)`. Fast where places are many and near.
        """
        if len(data) % 4:
            raise ValueError(f"fletcher-4 is over whole 32-bit words, not {len(data)} bytes")
        *noted, self.sums = self._add.noting(self._order, self.sums, data, [*places, len(data)])
        return noted


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


class Arithmetic(Protocol):
    """The interface of the summing engines."""

    def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
        """The sums after all of `data`."""
        ...

    def noting(self, byte_order: ByteOrder, sums: Sums, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """The sums after each place, in bytes; the last place is the length of `data`."""
        ...


class Plain:
    """The engine without NumPy."""

    def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
        """The sums after all of `data`."""
        a, b, c, d = sums
        for (word,) in struct.iter_unpack(f"{byte_order}I", data):
            a += word
            b += a
            c += b
            d += c
        return a & _MASK, b & _MASK, c & _MASK, d & _MASK

    def noting(self, byte_order: ByteOrder, sums: Sums, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """The sums after each place."""
        noted, start = [], 0
        for place in places:
            sums, start = self.whole(byte_order, sums, data[start:place]), place
            noted.append(sums)
        return noted


class WithNumPy:
    """The sums as array operations."""

    def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
        """The sums after all of `data`.

        Each of the four sums of a block of n words is a product with fixed weights: 1, k, k(k+1)/2,
        k(k+1)(k+2)/6, where k falls from n to 1.
        """
        import numpy as np

        weights = _weights()
        words = np.frombuffer(data, dtype=f"{byte_order}u4")
        for start in range(0, len(words), _BATCH):
            batch = words[start : start + _BATCH].astype(np.uint64)
            own = np.einsum("j,kj->k", batch, weights[:, _BATCH - len(batch) :])
            sums = combine(sums, len(batch), (int(own[0]), int(own[1]), int(own[2]), int(own[3])))
        return sums

    def noting(self, byte_order: ByteOrder, sums: Sums, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """The sums after each place: each of the four is the running total of the one before."""
        import numpy as np

        if not data:
            return [sums for _ in places]
        total = np.frombuffer(data, dtype=f"{byte_order}u4").astype(np.uint64)
        last_words = np.array(places) // 4 - 1
        noted = np.empty((len(places), 4), np.uint64)
        for column, start in enumerate(sums):
            # A slice, because a scalar would warn when it wraps around.
            total[:1] += np.uint64(start)
            np.add.accumulate(total, out=total)
            noted[:, column] = total[last_words]
        return [(a, b, c, d) for a, b, c, d in noted.tolist()]


@functools.cache
def _weights() -> NDArray[np.uint64]:
    import numpy as np

    k = np.arange(_BATCH, 0, -1, dtype=np.uint64)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    second = k * (k + one) // two
    return np.stack([np.ones(_BATCH, np.uint64), k, second, second * (k + two) // three])


@functools.cache
def _arithmetic() -> Arithmetic:
    try:
        import numpy as np
    except ImportError:
        return Plain()
    del np
    return WithNumPy()
