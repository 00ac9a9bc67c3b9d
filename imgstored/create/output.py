"""A file that a client opened for the daemon to write, with the size and SHA-1 of its content."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from imgstored.create.compress import compressed, compressed_with_index
from imgstored.delta.build import IndexBuilder
from imgstored.errors import FileSystemError, NoSpaceError, UsageError
from imgstored.host import shortage
from imgstored.host.foreign_files import ForeignFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from imgstored.create.compress import Buffer
    from imgstored.create.job import Reporter


class Output:
    """Writes from the file's start; its offset, which the client shares, is left alone.

    `path` is the client's word for it, for messages. Its disk may be gone: no call waits for that for ever.
    All calls block; leaving the block ends its use. `check` as of `ForeignFile`.
    """

    def __init__(self, fd: int, path: str, *, check: Callable[[], None] = lambda: None) -> None:
        """Raises `UsageError` for anything but an empty regular file that may be written."""
        self.path = path
        self.size = 0  #: bytes written
        self._index: dict[str, Any] | None = None
        # A manifest's SHA-1 tells which bytes are meant.
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        try:
            self._file = ForeignFile(fd, check=check)
        except OSError as error:
            raise self.failed(error) from error
        try:
            self._refuse_odd()
        except BaseException:
            self._file.close()
            raise

    def _refuse_odd(self) -> None:
        try:
            status, flags = self._file(lambda fd: (os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)))
        except OSError as error:
            raise self.failed(error) from error
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise UsageError(f"{self.path} is not an empty regular file", hint="give a new file name")
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise UsageError(f"{self.path} was not opened for writing")

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, block: Buffer) -> None:
        """Writes all of it. Raises `NoSpaceError`, `FileSystemError`."""
        view = memoryview(block).cast("B")
        self._sha1.update(view)
        self.put(view, self.size)
        self.size += len(view)

    def put(self, block: Buffer, offset: int) -> None:
        """Writes all of it at an offset, and counts and hashes nothing. Raises as `write` does."""
        self.change(partial(_write, memoryview(block).cast("B"), offset))

    def truncate(self, size: int) -> None:
        """Makes the file so large; what was not written is a hole."""
        self.change(lambda fd: os.ftruncate(fd, size))

    def change(self, call: Callable[[int], None]) -> None:
        """Does something to the open file. Raises as `write` does."""
        try:
            self._file(call)
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> FileSystemError | NoSpaceError:
        """The error for a failed write of the file."""
        if shortage.is_full(error) or error.errno == errno.EFBIG:
            return NoSpaceError(f"there is no room left for {self.path}", hint="write it to another place")
        return FileSystemError(f"{self.path} cannot be written: {error.strerror or error}")

    def append_index(self, index: bytes) -> None:
        """Writes the file's index behind it, from where the client takes it. Raises as `write` does."""
        self.put(index, self.size)
        self._index = {"sha256": hashlib.sha256(index).hexdigest(), "size": len(index)}

    def described(self, compression: str) -> dict[str, Any]:
        """The file as a manifest has it."""
        file = {"sha1": self._sha1.hexdigest(), "size": self.size, "compression": compression}
        return file if self._index is None else {**file, "index": self._index}


def _write(view: memoryview, offset: int, fd: int) -> None:
    while len(view):
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


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
    sent: Iterable[Buffer],
    compression: str,
    output: Output,
    reporter: Reporter,
    total: int | None,
    *,
    index: bool = False,
) -> None:
    """Writes a stream of about `total` bytes, compressed. It has ended when this has, however that ends.

    With `index`, the file's index comes behind it.
    """
    with closed(sent):
        watched = reporter.watched(sent, total)
        write_compressed(watched, compression, output, reporter.check, index=index)


def write_compressed(
    blocks: Iterable[Buffer],
    compression: str,
    output: Output,
    check: Callable[[], None],
    *,
    index: bool = False,
) -> None:
    """Writes a stream, compressed, and with `index` its index behind it; closes `blocks`.

    `check` is called before each piece, and may raise.
    """
    builder = IndexBuilder() if index else None
    pieces = compressed(blocks, compression) if builder is None else compressed_with_index(blocks, builder)
    with closed(blocks, pieces):
        write_all(pieces, output, check)
    if builder is not None:
        output.append_index(builder.finish())


def write_all(blocks: Iterable[Buffer], output: Output, check: Callable[[], None]) -> None:
    """Writes all of the blocks, and calls `check`, which may raise, before each."""
    for block in blocks:
        check()
        output.write(block)
