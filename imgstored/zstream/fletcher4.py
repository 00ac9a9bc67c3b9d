"""Fletcher-4, the checksum of ZFS send streams (OpenZFS module/zcommon/zfs_fletcher.c).

Over 32-bit words w: a += w, b += a, c += b, d += c, all modulo 2**64. The C library of ZFS sums up 50 GB a
second where it is installed, NumPy 3, and plain Python 0.03; the result is the same.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview
Sums = tuple[int, int, int, int]
ByteOrder = Literal["<", ">"]

_MASK = (1 << 64) - 1


class Fletcher4:
    """A running checksum. `sums` can be kept, and a later one started from it."""

    __slots__ = ("_add", "_order", "sums")

    def __init__(self, byte_order: ByteOrder = "<", sums: Sums = (0, 0, 0, 0)) -> None:
        self.sums = sums
        self._order: ByteOrder = byte_order
        self._add = load_arithmetic()

    def update(self, data: Buffer) -> None:
        """Adds `data`, whose length is a multiple of 4 bytes. Raises `ValueError` for another length."""
        if len(data) % 4:
            raise ValueError(f"fletcher-4 is over whole 32-bit words, not {len(data)} bytes")
        self.sums = self._add.whole(self._order, self.sums, data)

    def update_noting(self, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """Adds `data`, and returns the sums after its first `places[0]` bytes, `places[1]`, and so on.

        Places rise, are multiples of 4, and lie in 4 to `len(data)`.
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


#: Words that NumPy sums up in one go: 128 KiB, the payload of most records.
_BATCH: Final = 32768
#: How it lays them out. In a column, the four sums of 32 words fit into the 53 bits of a double:
#: 2**32 * C(35, 4) < 2**53. So they are exact, and a product of matrices.
_ROWS: Final = 32
_COLUMNS: Final = _BATCH // _ROWS
#: Bytes from one place to the next from which NumPy sums them up by themselves. Below that, a call costs more
#: than summing a window of words one by one.
_LARGE: Final = 64 << 10
_WINDOW: Final = 128 << 10


class WithNumPy:
    """The sums as products with fixed weights.

    Each of the four sums of n words is a product with C(k + i - 1, i), where k falls from n to 1.
    """

    def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
        """The sums after all of `data`."""
        import numpy as np

        words = np.frombuffer(data, dtype=f"{byte_order}u4")
        for start in range(0, len(words), _BATCH):
            batch = words[start : start + _BATCH]
            if len(batch) == _BATCH:
                down, across = _matrices()
                # Its many products need as few threads as the rest; OpenBLAS takes one for so small a matrix.
                columns = np.dot(down, batch.reshape(_ROWS, _COLUMNS).astype(np.float64))
                own = np.einsum("j,kj->k", columns.astype(np.uint64).reshape(-1), across)
            else:
                own = np.einsum("j,kj->k", batch.astype(np.uint64), _weights()[:, _BATCH - len(batch) :])
            sums = combine(sums, len(batch), (int(own[0]), int(own[1]), int(own[2]), int(own[3])))
        return sums

    def noting(self, byte_order: ByteOrder, sums: Sums, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """The sums after each place."""
        view = memoryview(data)
        noted: list[Sums] = []
        summed = 0
        near: list[int] = []
        for before, place in itertools.pairwise([0, *places]):
            if place - before >= _LARGE:
                noted += self._one_by_one(byte_order, sums, view[summed:before], near, summed)
                sums = self.whole(byte_order, noted[-1] if near else sums, view[before:place])
                noted.append(sums)
            elif place - summed >= _WINDOW:
                noted += self._one_by_one(byte_order, sums, view[summed:place], [*near, place], summed)
                sums = noted[-1]
            else:
                near.append(place)
                continue
            summed, near = place, []
        if near:
            noted += self._one_by_one(byte_order, sums, view[summed : near[-1]], near, summed)
        return noted

    def _one_by_one(
        self, byte_order: ByteOrder, sums: Sums, data: memoryview, places: Sequence[int], first: int
    ) -> list[Sums]:
        """The sums after each place of `data`, which begins at `first`: running totals of running totals."""
        import numpy as np

        if not data:
            return [sums for _ in places]
        total = np.frombuffer(data, dtype=f"{byte_order}u4").astype(np.uint64)
        last_words = (np.array(places) - first) // 4 - 1
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
def _matrices() -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
    """The weights of a batch's rows, and those of what the rows become.

    k is q * _COLUMNS + m, where q falls with the rows and m with the columns. Its binomial coefficients are
    sums of products of those of q * _COLUMNS and of m (Vandermonde), and the former sums of those of q.
    """
    import numpy as np

    down = [[math.comb(_ROWS - 1 - row, i) for row in range(_ROWS)] for i in range(4)]
    across = [[0] * (4 * _COLUMNS) for _ in range(4)]
    for order in range(4):
        for j in range(order + 1):
            steps = _newton([math.comb(q * _COLUMNS, j) for q in range(4)])
            for i, step in enumerate(steps):
                for column in range(_COLUMNS):
                    m = _COLUMNS - column
                    rest = math.comb(m + order - 1, order - j) if order else 1
                    across[order][i * _COLUMNS + column] += step * rest
    return np.array(down, np.float64), np.array([[w & _MASK for w in row] for row in across], np.uint64)


def _newton(values: list[int]) -> list[int]:
    """The c[i] by which the polynomial with these values at 0, 1, ... is the sum of c[i] * C(q, i)."""
    steps = []
    while values:
        steps.append(values[0])
        values = [after - before for before, after in itertools.pairwise(values)]
    return steps


_ILLUMOS: Final = "libzfs.so.1"


class Library:
    """The C library of ZFS, whose functions for this are the same in OpenZFS and illumos."""

    #: The library's file as programs load it: OpenZFS, the newest first, and illumos.
    NAMES: Final = ("libzfs.so.7", "libzfs.so.6", "libzfs.so.5", "libzfs.so.4", "libzfs.so.2", _ILLUMOS)

    #: Bytes from which a call lets other Python threads run: below that, it costs more than it lasts.
    _RELEASING: Final = 16 << 10

    def __init__(self, name: str) -> None:
        """Raises `OSError` if it is not there, and `AttributeError` if it is another one."""
        swapped: ByteOrder = ">" if sys.byteorder == "little" else "<"
        native: ByteOrder = "<" if sys.byteorder == "little" else ">"
        self._long, self._short = (
            {
                native: _declared(library.fletcher_4_incremental_native),
                swapped: _declared(library.fletcher_4_incremental_byteswap),
            }
            for library in (ctypes.CDLL(name), ctypes.PyDLL(name))
        )
        if name != _ILLUMOS:
            # OpenZFS has an implementation for each kind of processor, and none before it has chosen.
            prepare = ctypes.PyDLL(name).fletcher_4_init
            prepare.restype = None
            prepare()

    def whole(self, byte_order: ByteOrder, sums: Sums, data: Buffer) -> Sums:
        """The sums after all of `data`."""
        return self.noting(byte_order, sums, data, [len(data)])[-1]

    def noting(self, byte_order: ByteOrder, sums: Sums, data: Buffer, places: Sequence[int]) -> list[Sums]:
        """The sums after each place."""
        total = (ctypes.c_uint64 * 4)(*sums)
        long, short = self._long[byte_order], self._short[byte_order]
        noted: list[Sums] = []
        with _address_of(data) as address:
            at = 0
            for place in places:
                size = place - at
                (short if size < self._RELEASING else long)(address + at, size, total)
                noted.append((total[0], total[1], total[2], total[3]))
                at = place
        return noted


def _declared(function: Any) -> Any:
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function


class _PyBuffer(ctypes.Structure):
    """`Py_buffer`, whose layout is part of Python's stable ABI (PEP 688)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


@contextmanager
def _address_of(data: Buffer) -> Iterator[int]:
    """The address of `data` within the block. ctypes itself gives no address of read-only memory."""
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
    try:
        yield view.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def library() -> Library | None:
    """The C library, if there is one that sums up as it should."""
    probe = bytes(range(256)) * 4
    right = Plain().whole("<", (1, 2, 3, 4), probe), Plain().whole(">", (1, 2, 3, 4), probe)
    for name in Library.NAMES:
        try:
            found = Library(name)
        except (OSError, AttributeError):
            continue
        if (found.whole("<", (1, 2, 3, 4), probe), found.whole(">", (1, 2, 3, 4), probe)) == right:
            return found
    return None


@functools.cache
def load_arithmetic() -> Arithmetic:
    """The fastest engine that is there, loaded by the first call."""
    found = library()
    if found is not None:
        return found
    try:
        import numpy as np
    except ImportError:
        return Plain()
    del np
    return WithNumPy()
