"""A file that a client opened for the daemon to write, with the size and SHA-1 of its content."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from imgstored.create.compress import compressed
from imgstored.errors import FileSystemError, NoSpaceError, UsageError
from imgstored.host import shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgstored.create.compress import Buffer
    from imgstored.create.job import Reporter


class Output:
    """Writes from the file's start; its offset, which the client shares, is left alone.

    `path` is the client's word for it, for messages.
    """

    def __init__(self, fd: int, path: str) -> None:
        """Raises `UsageError` for anything but an empty regular file that may be written."""
        self.fd = fd
        self.path = path
        self.size = 0  #: bytes written
        # A manifest's SHA-1 tells which bytes are meant.
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise UsageError(f"{path} is not an empty regular file", hint="give a new file name")
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise UsageError(f"{path} was not opened for writing")

    def write(self, block: Buffer) -> None:
        """Writes all of it. Raises `NoSpaceError`, `FileSystemError`."""
        view = memoryview(block).cast("B")
        self._sha1.update(view)
        while len(view):
            written = self.put(view, self.size)
            self.size += written
            view = view[written:]

    def put(self, view: memoryview | bytes, offset: int) -> int:
        """Writes at an offset, and counts and hashes nothing; returns how much of it was written."""
        try:
            return os.pwrite(self.fd, view, offset)
        except OSError as error:
            raise self.failed(error) from error

    def truncate(self, size: int) -> None:
        """Makes the file so large; what was not written is a hole."""
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> FileSystemError | NoSpaceError:
        """The error for a failed write of the file."""
        if shortage.is_full(error) or error.errno == errno.EFBIG:
            return NoSpaceError(f"there is no room left for {self.path}", hint="write it to another place")
        return FileSystemError(f"{self.path} cannot be written: {error.strerror or error}")

    def described(self, compression: str) -> dict[str, Any]:
        """The file as a manifest has it."""
        return {"sha1": self._sha1.hexdigest(), "size": self.size, "compression": compression}


@contextmanager
def closed(*streams: Iterable[Buffer]) -> Iterator[None]:
    """Closes streams that can be closed, the last one first.

    An error would keep them alive until it is reported, and with a stream the snapshot that it is of.
    """
    with ExitStack() as stack:
        for stream in streams:
            if (close := getattr(stream, "close", None)) is not None:
                stack.callback(close)
        yield


def pour(
    sent: Iterable[Buffer], compression: str, output: Output, reporter: Reporter, total: int | None
) -> None:
    """Writes a stream of about `total` bytes, compressed. It has ended when this has, however that ends."""
    watched = reporter.watched(sent, total)
    pieces = compressed(watched, compression)
    with closed(sent, watched, pieces):
        write_all(pieces, output, reporter.check)


def write_all(blocks: Iterable[Buffer], output: Output, check: Callable[[], None]) -> None:
    """Writes all of the blocks, and calls `check`, which may raise, before each."""
    for block in blocks:
        check()
        output.write(block)
