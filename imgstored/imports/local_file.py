"""An image file that a client has opened, as the input of an import."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from imgstored.errors import DownloadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20


class LocalFile:
    """Reads a descriptor, which stays its owner's. `path` is the client's word for it, for messages."""

    def __init__(self, fd: int, path: str) -> None:
        """Raises `UsageError` for anything but a regular file that may be read."""
        self.path = path
        self._fd = fd
        self._failure: BaseException | None = None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file", hint="save the image to a file first")
        self.size = status.st_size  #: bytes
        try:
            os.pread(fd, 1, 0)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error

    def fail(self, error: BaseException) -> None:
        """Makes readers raise `error` at their next block."""
        self._failure = self._failure or error

    def blocks(self) -> Iterator[bytes]:
        """The file from its start, 1 MiB at a time. Its offset, which the client shares, is left alone."""
        offset = 0
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                block = os.pread(self._fd, _BLOCK, offset)
            except OSError as error:
                raise DownloadError(f"{self.path} cannot be read: {error.strerror or error}") from error
            if not block:
                return
            offset += len(block)
            yield block
