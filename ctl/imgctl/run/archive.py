"""An image in one stream: a tar archive of its manifest, then its file, as `tar` writes and reads it.

`export -o -` writes one, and `install -f -` reads it. What is read may come from anybody: headers are looked
at one by one, nothing is extracted by its name, and only as much is read as the manifest says.
"""

from __future__ import annotations

import os
import tarfile
import time
from typing import IO, TYPE_CHECKING, Any, Protocol

from imgctl.errors import CommandError
from imgctl.run.image_files import parse_manifest, written

if TYPE_CHECKING:
    from collections.abc import Iterator


class Output(Protocol):
    """The target of an archive."""

    def write(self, data: bytes, /) -> int:
        """Writes all of it."""
        ...

    def flush(self) -> None:
        """Writes what waits."""
        ...


_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_MANIFEST = ".imgmanifest"
#: Bytes of a name that a plain header has room for.
_LONGEST = 90
#: Of what follows the archive so much is read, so that its writer ends well.
_REST = 1 << 20


def write(out: Output, manifest: dict[str, Any], prefix: str, suffix: str, descriptor: int) -> None:
    """Writes the archive of a manifest and the file that is open as `descriptor`. Raises `OSError`."""
    if len(os.fsencode(prefix + suffix)) > _LONGEST:
        prefix = str(manifest.get("uuid"))
    data = written(manifest)
    _write_header(out, prefix + _MANIFEST, len(data))
    out.write(data + _padding(len(data)))
    size = os.fstat(descriptor).st_size
    _write_header(out, prefix + suffix, size)
    offset = 0
    while piece := os.pread(descriptor, _PIECE, offset):
        out.write(piece)
        offset += len(piece)
    if offset != size:
        raise CommandError("FileSystem", f"the image's file has {offset} bytes, and had {size}")
    out.write(_padding(size) + bytes(2 * _BLOCK))
    out.flush()


def read_manifest(stream: IO[bytes], limit: int) -> dict[str, Any]:
    """The manifest, with which an archive begins. Raises `CommandError`."""
    header = _read_header(stream)
    if not header.name.endswith(_MANIFEST) or header.size > limit:
        raise _no_archive(f'it begins with "{header.name[:_LONGEST]}", and not with a manifest')
    return parse_manifest(b"".join(_content(stream, header.size)))


def read_file(stream: IO[bytes], manifest: dict[str, Any], file: IO[bytes]) -> None:
    """Reads the image's file, which follows the manifest, into `file`. Raises `CommandError`, `OSError`."""
    header = _read_header(stream)
    size = _told_size(manifest)
    if header.size != size:
        raise _no_archive(f"the file has {header.size} bytes, and {size or 'none'} by its manifest")
    for piece in _content(stream, header.size):
        file.write(piece)
    file.flush()
    stream.read(_REST)


def _told_size(manifest: dict[str, Any]) -> int | None:
    files = manifest.get("files")
    size = files[0].get("size") if isinstance(files, list) and files and isinstance(files[0], dict) else None
    return size if isinstance(size, int) else None


def _write_header(out: Output, name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, int(time.time())
    out.write(header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))


def _read_header(stream: IO[bytes]) -> tarfile.TarInfo:
    block = stream.read(_BLOCK)
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _no_archive(str(error)) from error
    if not header.isreg() or header.size < 0:
        raise _no_archive("it has something that is no plain file")
    return header


def _content(stream: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read(min(_PIECE, left))
        if not piece:
            raise _no_archive(f"it ends {left} bytes too early")
        left -= len(piece)
        yield piece
    stream.read(len(_padding(size)))


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _no_archive(why: str) -> CommandError:
    return CommandError(
        "InvalidManifest",
        f"standard input is no image: {why}",
        hint="`imgctl export -o - IMAGE` writes one; with -m, -f - is the file alone",
    )
