"""The hash of the daemon's own bytes: BLAKE3, or else BLAKE2b.

BLAKE3 needs a package in Rust. BLAKE2b (RFC 7693) is in every Python, and as fast on all processors. SHA-256
takes 0.6 of its time on those with instructions for SHA, and 1.6 times as long on all others.

A hash that is kept has its algorithm's name beside it. State that was written elsewhere is then compared by
the same algorithm, or counts as absent where that is not installed, and is never compared by another one.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of every fingerprint, whatever the algorithm.
SIZE: Final = 32

BLAKE3: Final = "blake3"
BLAKE2B: Final = "blake2b-256"


class _Hash(Protocol):
    """The common interface of hashlib and the package blake3."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


_ALGORITHMS: Final[dict[str, Callable[[], _Hash]]] = {BLAKE2B: partial(hashlib.blake2b, digest_size=SIZE)}

try:
    from blake3 import blake3
except ImportError:
    pass
else:
    _ALGORITHMS[BLAKE3] = blake3


class Fingerprint(NamedTuple):
    """A hash of some bytes, and what it was made with."""

    algorithm: str
    digest: bytes

    @property
    def can_be_compared(self) -> bool:
        """True if its algorithm is there: the bytes cannot be known again otherwise."""
        return self.algorithm in _ALGORITHMS

    def is_of(self, data: bytes) -> bool:
        """True if it is that of `data`. Raises `KeyError` if that cannot be seen here."""
        return self == fingerprint(data, self.algorithm)


class Hasher:
    """Hashes bytes that come in pieces. Lets go of the interpreter's lock while it works at a large one."""

    __slots__ = ("_hash", "algorithm", "update")

    def __init__(self, algorithm: str | None = None) -> None:
        """With the best algorithm that is there, or the named one. Raises `KeyError` if that is not there."""
        self.algorithm = algorithm or preferred()
        self._hash = _ALGORITHMS[self.algorithm]()
        #: Adds the next bytes.
        self.update = self._hash.update

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the bytes so far."""
        return Fingerprint(self.algorithm, self._hash.digest())


def preferred() -> str:
    """The algorithm that new state is written with."""
    return BLAKE3 if BLAKE3 in _ALGORITHMS else BLAKE2B


def fingerprint(data: bytes, algorithm: str | None = None) -> Fingerprint:
    """The fingerprint of `data`. Raises as `Hasher` does."""
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.fingerprint()
