"""Hashes of an image's file as it passes by, compared with those in its manifest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from imgstored.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgstored.hashing import Hasher
    from imgstored.pools.base import Blocks

_TRY_AGAIN = "the source's file is not the one that its manifest describes, or it was damaged on the way"


class WrongFileError(DownloadError):
    """The file is not the one that the manifest describes."""


class Expected(Struct, frozen=True):
    """The size and checksum of a file in its manifest; None is not compared."""

    uuid: str  #: the image's, for messages
    size: int | None = None  #: bytes, compressed
    sha1: str | None = None  #: lower-case hexadecimal
    sha256: str | None = None  #: lower-case hexadecimal
    #: The file's parts, one after another: size, and SHA-256 in lower-case hexadecimal or None.
    parts: tuple[tuple[int, str | None], ...] = ()
    path: str | None = None  #: the file's, for messages, where it was given rather than downloaded
    type: str = ""  #: of the image; a file of the type docker may be a layer
    dataset: Literal["filesystem", "volume"] | None = None  #: what the file's stream makes


class Digest:
    """The size and the SHA-1 of the bytes seen so far, which are added to `hasher`, too, if there is one."""

    def __init__(self, hasher: Hasher | None = None, *, sha256: bool = False) -> None:
        self.size = 0
        # A manifest's SHA-1 tells which bytes are meant; it is no defence against who wrote the manifest.
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._hasher = hasher
        self._sha256 = hashlib.sha256() if sha256 else None

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """Adds the file's next bytes."""
        self.size += len(block)
        self._sha1.update(block)
        if self._hasher is not None:
            self._hasher.update(block)
        if self._sha256 is not None:
            self._sha256.update(block)

    @property
    def sha256(self) -> str | None:
        """In lower-case hexadecimal; None if nobody wanted it."""
        return None if self._sha256 is None else self._sha256.hexdigest()

    @property
    def sha1(self) -> str:
        """In lower-case hexadecimal."""
        return self._sha1.hexdigest()


def digested(blocks: Blocks, expected: Expected, digest: Digest) -> Iterator[bytes | bytearray | memoryview]:
    """Passes `blocks` on, and adds them to `digest`.

    Raises `WrongFileError` as soon as they are more than expected, and otherwise at their end, if size, SHA-1
    or SHA-256 (for which `digest` must have been made) are not those expected: who has not read to the end
    knows nothing of the file.
    """
    parts = _PartDigests(expected)
    for block in blocks:
        digest.update(block)
        parts.update(block)
        if expected.size is not None and digest.size > expected.size:
            raise _size_error(expected, digest)
        yield block
    if expected.size is not None and digest.size != expected.size:
        raise _size_error(expected, digest)
    if expected.sha1 is not None and digest.sha1 != expected.sha1:
        raise _checksum_error(expected, digest)
    if expected.sha256 is not None and digest.sha256 != expected.sha256:
        raise WrongFileError(
            f"image {expected.uuid} file checksum (sha256) error: expected"
            f' "{expected.sha256}", the downloaded file has "{digest.sha256}"',
            hint=_TRY_AGAIN,
        )


class _PartDigests:
    """The SHA-256 of each part of the file. Raises `WrongFileError` where a part ends that is another one."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._parts = iter([part for part in expected.parts if part[0]])
        self._place = 0
        self._next()

    def _next(self) -> None:
        self._left, self._sha256 = next(self._parts, (0, None))
        self._hasher = hashlib.sha256()

    def update(self, block: bytes | bytearray | memoryview) -> None:
        view = memoryview(block)
        while view and self._left:
            if self._sha256 is not None:
                self._hasher.update(view[: self._left])
            step = min(len(view), self._left)
            self._left -= step
            view = view[step:]
            if not self._left:
                self._end()

    def _end(self) -> None:
        if self._sha256 is not None and self._hasher.hexdigest() != self._sha256:
            raise WrongFileError(
                f"image {self._expected.uuid} file checksum (sha256) error: layer {self._place + 1} is"
                f' "{self._hasher.hexdigest()}", and the registry calls it "{self._sha256}"',
                hint=_TRY_AGAIN,
            )
        self._place += 1
        self._next()


def drain(blocks: Iterable[bytes | bytearray | memoryview]) -> int:
    """Reads to the end; returns how many bytes there were."""
    return sum(len(block) for block in blocks)


def _size_error(expected: Expected, digest: Digest) -> WrongFileError:
    return _wrong_file(expected, "size", f"{expected.size} bytes", "downloaded", f"{digest.size} bytes")


def _checksum_error(expected: Expected, digest: Digest) -> WrongFileError:
    said, found = f'"{expected.sha1}"', f'"{digest.sha1}"'
    return _wrong_file(expected, "checksum (sha1)", said, "downloaded checksum was", found)


def _wrong_file(expected: Expected, what: str, said: str, downloaded: str, found: str) -> WrongFileError:
    """The error in imgadm's words: those of `install` for a file that was given, else those of `import`."""
    if expected.path is not None:
        text = f"image file {what} error: manifest says {said}, {expected.path} is {found}"
    else:
        text = f"image {expected.uuid} file {what} error: expected {said}, {downloaded} {found}"
    return WrongFileError(text, hint=_TRY_AGAIN)
