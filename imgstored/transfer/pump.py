"""Takes one image's file from its spool to its pool: digest, decompress, receive.

Three threads: the one that calls `run` receives, another one decompresses for it, a third reads and hashes.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from imgstored.errors import DownloadError, StreamError
from imgstored.hashing import Hasher
from imgstored.transfer.decompress import DecompressLimits, Meter, decompressed
from imgstored.transfer.digest import Digest, Expected, digested, drain
from imgstored.transfer.stages import Stages
from imgstored.transfer.threaded import threaded
from imgstored.zstream.reader import begin_of
from imgstored.zstream.records import Objset

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from imgstored.http.location import Verify
    from imgstored.pools.base import Blocks
    from imgstored.transfer.decompress import Contents

    Pieces = Iterator[bytes | bytearray | memoryview]

    #: Makes a stream of what is in a file; is given what raises once the stream is not wanted any more.
    Convert = Callable[[Pieces, Callable[[], None]], Generator[bytes | bytearray, None, None]]

T = TypeVar("T")

#: Pieces of the stream (of 1 MiB at most) that wait to be received.
_DEPTH = 10

#: Blocks of the file (of 1 MiB at most) that wait to be decompressed.
_BLOCKS = 2


class Pump:
    """One file's way. `run` is called once; the rest may be called from any thread, at any time.

    `open_blocks` gives the file's bytes from the first on, and waits for those that are still to come; it is
    called twice for `verify="first"`. `release` is called with an error when the pump stops early, and makes
    what `open_blocks` gave raise it rather than wait on (`Watermark.fail` does).
    """

    def __init__(
        self,
        open_blocks: Callable[[], Blocks],
        expected: Expected,
        limits: DecompressLimits,
        *,
        verify: Verify,
        release: Callable[[BaseException], None],
        stages: Stages | None = None,
        convert: Convert | None = None,
    ) -> None:
        """`convert` makes the stream of what is in the file, where that is something else."""
        self._open_blocks = open_blocks
        self._expected = expected
        self._verify = verify
        self._release = release
        self._stages = stages or Stages()
        self._convert = convert
        self._offered = 0
        self._meter = Meter(limits)
        # Only a file that is read twice has to be known again.
        self._first = Hasher() if verify == "first" else None
        self._digest = Digest(self._first, sha256=expected.sha256 is not None)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._taken = 0  # bytes of the stream that the pool is done with

    @property
    def verifies_first(self) -> bool:
        """True if all of the file is read before the pool gets any of it."""
        return self._verify == "first"

    @property
    def compressed(self) -> int:
        """Bytes of the file that have been hashed. With `verify="first"`, of the first reading."""
        return self._digest.size

    @property
    def sha1(self) -> str:
        """SHA-1 of these, in lower-case hexadecimal: the whole file's once `run` has returned."""
        return self._digest.sha1

    @property
    def consumed(self) -> int:
        """Bytes of the file that have been decompressed, and that the pool has taken."""
        # Of what waits to be received nobody knows which bytes of the file it was.
        return self._meter.compressed * self._taken // max(self._meter.stream, self._taken, 1)

    @property
    def stream(self) -> int:
        """Bytes of the stream that the pool was offered."""
        return self._offered

    def cancel(self, error: BaseException) -> None:
        """Makes `run` end soon with `error`, wherever it is, unless `receive` itself waits for the pool."""
        with self._lock:
            self._failure = self._failure or error
        self._release(error)

    def run(self, receive: Callable[[Pieces], T]) -> T:
        """Pumps all of the file to `receive`, and returns what that returned.

        Blocks. Raises `DownloadError` when the file is not the one expected, `UncompressionError`,
        `StreamError` when it is the stream of another kind of dataset or goes on after the stream's end, what
        `open_blocks` and `receive` raise, and what `cancel` was given. Has no thread left on return.
        """
        if self._verify == "first":
            with self._stages.verifying, self._opened() as blocks:
                drain(digested(blocks, self._expected, self._digest))
        with self._opened() as blocks:
            return self._receive(receive, self._digested(blocks))

    def _receive(self, receive: Callable[[Pieces], T], blocks: Blocks) -> T:
        times = self._stages
        with (
            times.receiving,
            threaded(blocks, _BLOCKS, "digest", times.hashed) as hashed,
            threaded(self._stream(hashed), _DEPTH, "decompress", times.decompressed) as stream,
        ):
            try:
                result = receive(self._counted(stream))
                # Sizes and checksums are only compared at the end, which the pool need not have seen.
                rest = drain(stream)
            except BaseException as error:
                # The other threads may wait for bytes to come, and are themselves waited for below.
                self.cancel(error)
                raise
        if rest:
            raise StreamError(
                f"image {self._expected.uuid}: {rest} bytes follow the end of the ZFS stream",
                hint="the image file is not the output of `zfs send`; tell its publisher",
            )
        return result

    def _counted(self, stream: Pieces) -> Pieces:
        for piece in stream:
            size = len(piece)
            yield piece
            self._taken += size  # the pool wants the next one

    def _stream(self, blocks: Blocks) -> Pieces:
        contents: Contents = "layer" if self._expected.type == "docker" else "stream"
        if self._convert is not None:
            contents = "anything"
        with ExitStack() as stack:
            pieces: Pieces
            pieces = stack.enter_context(closing(decompressed(blocks, self._meter, contents=contents)))
            if self._convert is not None:
                pieces = stack.enter_context(closing(self._convert(pieces, self.check)))
            for piece in pieces if self._expected.dataset is None else self._of_its_kind(pieces):
                self.check()
                self._offered += len(piece)
                yield piece

    def _of_its_kind(self, pieces: Pieces) -> Pieces:
        """The pieces again. Raises `StreamError` for a stream of another kind of dataset than expected."""
        begin, pieces_again = begin_of(pieces)
        found = "volume" if begin.objset is Objset.VOLUME else "filesystem"
        if found != self._expected.dataset:
            raise StreamError(
                f"image {self._expected.uuid}: the file is the stream of a {found}, "
                f'but the manifest\'s type is "{self._expected.type}"',
                hint="the manifest, or the file, is the wrong one; tell its publisher",
            )
        return pieces_again

    def _digested(self, blocks: Blocks) -> Blocks:
        """Hashes what is decompressed; a file that was verified before must still be the same."""
        if self._first is None:
            yield from digested(blocks, self._expected, self._digest)
            return
        again = Hasher()
        yield from digested(blocks, self._expected, Digest(again, sha256=self._expected.sha256 is not None))
        if again.fingerprint() != self._first.fingerprint():
            raise DownloadError(
                f"image {self._expected.uuid}: the downloaded file changed after it was verified",
                hint="another program writes to the daemon's folder, or its disk is failing",
            )

    @contextmanager
    def _opened(self) -> Iterator[Blocks]:
        with ExitStack() as stack:
            blocks = self._open_blocks()
            # Frames of a traceback would keep it open otherwise.
            stack.callback(getattr(blocks, "close", lambda: None))
            yield self._watched(blocks)

    def _watched(self, blocks: Blocks) -> Blocks:
        for block in blocks:
            self.check()
            yield block

    def check(self) -> None:
        """Raises what `cancel` was given."""
        if self._failure is not None:
            raise self._failure
