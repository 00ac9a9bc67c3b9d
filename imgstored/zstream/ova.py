"""Finds the disk in an OVA: a tar with a description, and disks of one or several machines (DMTF DSP0243).

The archive is hostile. Nothing is unpacked, and no name in it is used for anything: what is sought is where
the one disk begins and how long it is. tarfile reads headers only, of bounded number and size.
"""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Final, NamedTuple

from imgstored.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Where a tar of POSIX or GNU says that it is one.
_MAGIC_AT: Final = 257
_MAGIC: Final = b"ustar"

#: An OVA has a description, a manifest, a certificate, and its disks.
_MAX_FILES: Final = 1000
#: Bytes of a file's name and the like, which are kept until the last file was looked at.
_MAX_READ: Final = 1 << 16

_UNPACK: Final = "unpack it (`tar -xf FILE`), and give the disk that is to become the image"


class Part(NamedTuple):
    """The place of a file in the archive, in bytes."""

    offset: int
    size: int


def is_tar(head: bytes) -> bool:
    """True if a file that begins so is a tar. Pure."""
    return head[_MAGIC_AT:].startswith(_MAGIC)


def the_disk(fd: int, magics: Iterable[bytes], head: int) -> Part:
    """The one file in the tar that begins with any of `magics`, within its first `head` bytes.

    Raises `UsageError` where there is none, or more than one, or the tar is damaged; and `OSError`.
    """
    kinds = tuple(magics)
    disks = [part for part in _files(fd) if os.pread(fd, head, part.offset).startswith(kinds)]
    if len(disks) == 1:
        return disks[0]
    what = f"{len(disks)} disks in it" if disks else "no vmdk and no qcow2 in it"
    raise UsageError(f"the disk is a tar with {what}", hint=_UNPACK)


def _files(fd: int) -> Iterator[Part]:
    end = os.fstat(fd).st_size
    try:
        with tarfile.TarFile(fileobj=_Bounded(fd)) as tar:
            for _ in range(_MAX_FILES):
                member = tar.next()
                if member is None:
                    return
                if not member.isreg() or member.issparse():
                    continue
                if not 0 <= member.offset_data <= member.offset_data + member.size <= end:
                    raise UsageError("the disk is a tar that is cut short", hint="copy it anew")
                yield Part(member.offset_data, member.size)
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError):
        raise UsageError("the disk is a tar that is damaged", hint=_UNPACK) from None
    raise UsageError(f"the disk is a tar with more than {_MAX_FILES} files", hint=_UNPACK)


class _Bounded(io.RawIOBase):
    """The file, of which nobody reads much at a time. Its position is nobody else's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("a header is too large")
        data = os.pread(self._fd, size, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < 0:
            raise tarfile.ReadError("it leads out of the file")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position
