"""An image file that a client has opened: the input of an import, and its copy for the library."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from imgstored.errors import DownloadError, UsageError
from imgstored.host.foreign_files import ForeignFile
from imgstored.imports.free_space import watched
from imgstored.transfer.digest import Digest, digested

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from imgstored.imports.free_space import FreeSpace
    from imgstored.library.library import Library
    from imgstored.manifest import Manifest
    from imgstored.transfer.digest import Expected
    from imgstored.transfer.pump import Pieces

_BLOCK = 1 << 20


class FromFile(Struct, frozen=True):
    """An image file that a client has opened. The import closes `fd`; `path` is for messages."""

    fd: int
    path: str


class LocalFile:
    """Reads a descriptor, which its owner closes. `path` is the client's name for it, for messages.

    Its disk may be gone, so no call waits without end. `check` is as in `ForeignFile`.
    """

    def __init__(self, fd: int, path: str, *, check: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.size = 0  #: bytes, after `look`
        self._fd = fd
        self._check = check
        self._file: ForeignFile | None = None
        self._failure: BaseException | None = None

    async def look(self) -> None:
        """Raises `UsageError` unless this is a regular file that can be read and is not empty."""
        await trio.to_thread.run_sync(self._look, limiter=trio.CapacityLimiter(1))

    def _look(self) -> None:
        try:
            with ForeignFile(self._fd, check=trio.from_thread.check_cancelled) as file:
                status = file(os.fstat)
                if not stat.S_ISREG(status.st_mode):
                    raise UsageError(
                        f"{self.path} is not a regular file", hint="save the image to a file first"
                    )
                # Most of /proc, for example: to read it may take for ever, or change something.
                if not status.st_size:
                    raise UsageError(f"{self.path} is empty", hint="give the image's file")
                file(lambda fd: os.pread(fd, 1, 0))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror or error}") from error
        self.size = status.st_size

    def fail(self, error: BaseException) -> None:
        """Makes readers raise `error`, even a reader that waits for the disk."""
        self._failure = self._failure or error
        if (file := self._file) is not None:
            file.fail(error)

    def blocks(self) -> Generator[bytes, None, None]:
        """The file from its start, 1 MiB at a time. The offset, which the client shares, does not change."""
        offset = 0
        try:
            with ForeignFile(self._fd, check=self._check) as self._file:
                while True:
                    if self._failure is not None:
                        raise self._failure
                    block = self._file(partial(_read, offset))
                    if not block:
                        return
                    offset += len(block)
                    yield block
        except OSError as error:
            raise DownloadError(f"{self.path} cannot be read: {error.strerror or error}") from error


def keep_copy(
    given: FromFile, library: Library, manifest: Manifest, expected: Expected, free_space: FreeSpace
) -> None:
    """Copies a client's file into the library. The file may have changed, and its disk may be gone.

    Runs in a thread of trio's, and ends when the caller is cancelled. Raises `OSError`, `DownloadError` or
    `NoSpaceError`.
    """
    assert expected.size is not None
    size = expected.size
    file = LocalFile(given.fd, given.path, check=trio.from_thread.check_cancelled)
    room = free_space.claim_folder(library.folder)

    def reserved(blocks: Iterator[bytes]) -> Pieces:
        room.expect(size)
        yield from watched(blocks, room, 0)

    try:
        with closing(file.blocks()) as blocks:
            library.copy(manifest, digested(reserved(blocks), expected, Digest()), size)
    finally:
        room.close()


def _read(offset: int, fd: int) -> bytes:
    return os.pread(fd, _BLOCK, offset)
