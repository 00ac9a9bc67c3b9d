"""The disk of a virtual machine, as it came from a registry, as the stream of a volume.

The disk is written into a file without a name first: a qcow2 can only be read where one can seek, and nothing
is made of bytes whose digest has not been compared. The same bytes always give the same stream, so that a
pool can go on with what it has.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import LayerError, UsageError
from imgstored.layers.entries import Kind, PieceReader, entries
from imgstored.zstream.disk import fetched_disk
from imgstored.zstream.volume import MAX_VOLUME
from imgstored.zstream.write import DEFAULT_BLOCK_SIZE, NewVolume, padded, volume_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from imgstored.layers.entries import Readable
    from imgstored.pools.base import Blocks, Room

#: Where in the layers of a container image a disk is: one file of any name.
_FOLDER: Final = b"disk"
#: Bytes that are read at a time, and of which none is written where they are all zeros.
_PIECE: Final = 1 << 20
_HOLE: Final = 64 << 10
_ZEROS: Final = bytes(_HOLE)

_HINT: Final = "tell whoever published it; `imgctl create --raw` takes a disk that you have as a file"


class DiskConversion(Struct, frozen=True):
    """The conversion of a disk into the stream of one image. Blocks."""

    uuid: str
    in_layer: bool  #: the disk is a file in a layer of a container image
    sha256: str  #: of the file that came, in lower-case hexadecimal
    folder: Path  #: for files without a name, as large as what is on the disk
    room: Room  #: there
    max_size: int = MAX_VOLUME  #: bytes

    def __call__(
        self, pieces: Iterator[bytes | bytearray | memoryview], check: Callable[[], None]
    ) -> Generator[bytes | bytearray, None, None]:
        """The stream. Raises `LayerError`, `NoSpaceError`, and what `pieces` and `check` raise."""
        with (
            self._fetched(pieces, check) as file,
            _disk_errors(self.uuid),
            fetched_disk(file.fileno(), folder=str(self.folder), check=check) as disk,
        ):
            if not disk.size:
                raise UsageError("it is empty")
            if disk.size > self.max_size:
                raise UsageError(f"it has {disk.size} bytes, and may have up to {self.max_size}")
            volume = NewVolume(
                name=f"zones/{self.uuid}@final",
                size=padded(disk.size, DEFAULT_BLOCK_SIZE),
                # Of the bytes alone: the same on every host, and after a restart.
                guid=int(self.sha256[:16], 16) | 1,
                created=0,
            )
            yield from volume_stream(volume, disk.extents(DEFAULT_BLOCK_SIZE))

    @contextmanager
    def _fetched(self, pieces: Blocks, check: Callable[[], None]) -> Iterator[IO[bytes]]:
        """The contents of the disk in a file, and its size."""
        reader = PieceReader(pieces)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if self.in_layer:
                self._from_layer(reader, file, check)
            else:
                self._write(reader, file, check)
            # The last bytes may be zeros, which are not written.
            reader.drain()
            yield file

    def _from_layer(self, reader: PieceReader, file: IO[bytes], check: Callable[[], None]) -> None:
        found = b""
        for entry, contents in entries(reader):
            if len(entry.path) != 2 or entry.path[0] != _FOLDER or entry.kind is Kind.WHITEOUT:
                continue
            if contents is None or found:
                what = f"also a {entry.kind.value}" if contents is None else "more than one file"
                raise _refused(self.uuid, f"the layer has {what} in /disk")
            found = entry.path[1]
            self._write(contents, file, check)
        if not found:
            raise _refused(self.uuid, "the layer has no file in /disk")

    def _write(self, contents: Readable, file: IO[bytes], check: Callable[[], None]) -> None:
        size = 0
        while piece := contents.read(_PIECE):
            check()
            if size + len(piece) > self.max_size:
                raise _refused(self.uuid, f"it is larger than {self.max_size} bytes")
            for start in range(0, len(piece), _HOLE):
                part = piece[start : start + _HOLE]
                if part == _ZEROS[: len(part)]:
                    continue
                self.room.take(len(part))
                try:
                    file.seek(size + start)
                    file.write(part)
                finally:
                    self.room.spent(len(part))
            size += len(piece)
        file.truncate(size)
        file.flush()


@contextmanager
def _disk_errors(uuid: str) -> Iterator[None]:
    """A message to people who name a file of theirs, as a message about what came."""
    try:
        yield
    except UsageError as error:
        raise _refused(uuid, error.message) from error


def _refused(uuid: str, why: str) -> LayerError:
    return LayerError(f"image {uuid}: the disk cannot be used: {why}", hint=_HINT)
