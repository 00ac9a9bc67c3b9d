"""The file side of `write`: opens a disk, and reads what is on it, but not where nothing is.

A disk is a raw one, or a qcow2 or vmdk that qemu-img makes a raw one of, also inside of an OVA. Which of them
is told by its first bytes, never by its name; and so is what is no disk, but something that has one inside.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import UsageError
from imgstored.host.filesystem import UNABLE
from imgstored.zstream import ova, qemu
from imgstored.zstream.records import MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Bytes that are read at a time: some of the largest blocks.
_READ: Final = 1 << 20

#: Not every system has these.
_SEEK_DATA: Final[int | None] = getattr(os, "SEEK_DATA", None)
_SEEK_HOLE: Final[int | None] = getattr(os, "SEEK_HOLE", None)

#: First bytes of what is surely no raw disk: what it is, and what to do first.
_CONVERT: Final = "`qemu-img convert -O raw` makes a raw disk of it"
_UNPACK: Final = "decompress it first"
_TAKE_OUT: Final = "unpack it, and give the disk that is in there"
_DOWNLOAD: Final = "download the disk itself"
_INSTALL: Final = "`imgctl install` takes it as it is, with its manifest"
_OTHERS: Final = {
    b"PK\3\4": ("a zip archive", _TAKE_OUT),
    b"PK\5\6": ("an empty zip archive", _TAKE_OUT),
    b"PK\7\x08": ("a zip archive in parts", _TAKE_OUT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _TAKE_OUT),
    b"Rar!\x1a\x07": ("a rar archive", _TAKE_OUT),
    b"070701": ("a cpio archive", _TAKE_OUT),
    b"070702": ("a cpio archive", _TAKE_OUT),
    b"070707": ("a cpio archive", _TAKE_OUT),
    b"!<arch>\n": ("an ar archive, such as a Debian package", _TAKE_OUT),
    b"xar!": ("a xar archive", _TAKE_OUT),
    b"MSWIM\0\0\0": ("a wim archive", _TAKE_OUT),
    b"WithoutFreeSpace": ("a disk of Parallels", _CONVERT),
    b"WithouFreSpacExt": ("a disk of Parallels", _CONVERT),
    b"Bochs Virtual HD Image": ("a disk of Bochs", _CONVERT),
    b"EVF\x09\x0d\x0a\xff\0": ("an EnCase image", "`ewfexport -f raw` makes a raw disk of it"),
    b"<?xml": ("XML, such as an OVF, which names disks and has none", "give the disk that it names"),
    b"<!DOCTYPE html": ("a page for browsers", _DOWNLOAD),
    b"<!doctype html": ("a page for browsers", _DOWNLOAD),
    b"<html": ("a page for browsers", _DOWNLOAD),
    b"COWD": ("a vmdk of ESX", _CONVERT),
    b"# Disk DescriptorFile": ("a vmdk whose data are in other files", _CONVERT),
    b"vhdxfile": ("a vhdx", _CONVERT),
    b"conectix": ("a vhd", _CONVERT),
    b"<<< ": ("a vdi", _CONVERT),
    b"QED\0": ("a qed", _CONVERT),
    b"\x1f\x8b\x08": ("compressed by gzip", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\xfd7zXZ\0": ("compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"\x04\x22\x4d\x18": ("compressed by lz4", _UNPACK),
    b"\x89LZO\0": ("compressed by lzop", _UNPACK),
    b"LZIP\1": ("compressed by lzip", _UNPACK),
    b"\x1f\x9d": ("compressed by compress", _UNPACK),
}
#: A stream's first record begins with its type and the length of what follows.
_STREAM_AT: Final = 8
_STREAMS: Final = {MAGIC.to_bytes(8, order): ("a ZFS send stream", _INSTALL) for order in ("little", "big")}
#: The same of its last bytes, from 512 before its end.
_TAIL: Final = 512
_ENDS: Final = {
    b"conectix": ("a vhd of fixed size", _CONVERT),
    b"koly": ("a dmg", _CONVERT),
}


class Disk(Struct, frozen=True):
    """An open raw disk of `size` bytes."""

    fd: int
    size: int

    def extents(self, block_size: int) -> Iterator[tuple[int, bytes]]:
        """Yields the data on the disk, in order, up to 1 MiB at a time, but for its holes.

        Each extent begins at a multiple of `block_size`, and ends at one or with the disk. Raises `OSError`,
        and `UsageError` when the disk becomes shorter.
        """
        end = 0
        while end < self.size:
            start, hole = data_after(self.fd, end, self.size)
            # A block with some data is read whole; and a step is made even if the file changes meanwhile.
            start = max(start - start % block_size, end)
            end = max(hole + -hole % block_size, start + block_size)
            for offset in range(start, min(end, self.size), _READ):
                yield offset, self._read(offset, min(_READ, end - offset, self.size - offset))

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.fd, size, offset)
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), offset + len(data))
            if not more:
                raise UsageError(
                    f"the disk became shorter than {self.size} bytes while it was read",
                    hint="no program may write to it meanwhile: stop its machine, or take a snapshot",
                )
            data += more
        return data


def data_after(fd: int, offset: int, size: int) -> tuple[int, int]:
    """The start and end of the next data of a file of `size` bytes; where nobody tells, all are data.

    Raises `OSError`.
    """
    if _SEEK_DATA is None or _SEEK_HOLE is None:
        return offset, size
    try:
        start = os.lseek(fd, offset, _SEEK_DATA)
        return start, os.lseek(fd, start, _SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        # Block devices, and some file systems, do not tell.
        if error.errno in UNABLE:
            return offset, size
        raise


@contextmanager
def open_disk(
    path: str | os.PathLike[str], *, raw: bool = False, folder: str | None = None
) -> Iterator[Disk]:
    """Opens a disk for reading. A qcow2 or vmdk is unpacked into a nameless file in `folder` first.

    Of an OVA it is the one disk that is in there, which is read where it is.

    `raw`: take it as it is, whatever its first bytes look like. Who has the disk of a machine should say so:
    these bytes are the machine's.

    Raises `UsageError` for what is no disk or cannot be taken, `NoSpaceError`, and `OSError`.
    """
    with ExitStack() as stack:
        # A pipe would wait for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise UsageError(f"{path} is {_what(kind)}", hint=_instead(os.fsdecode(path)))
        if not raw:
            head, part = os.pread(fd, qemu.HEAD, 0), None
            if ova.is_tar(head):
                part = ova.the_disk(fd, qemu.MAGICS, qemu.HEAD)
                head = os.pread(fd, min(qemu.HEAD, part.size), part.offset)
            format_ = format_of(head)
            if format_ != "raw":
                fd = stack.enter_context(qemu.unpacked(fd, format_, folder, part)).fileno()
            else:
                _refuse_by_end(fd)
        size = os.lseek(fd, 0, os.SEEK_END)
        if not size:
            raise UsageError(f"{path} is empty", hint="a disk has at least one byte")
        yield Disk(fd, size)


@contextmanager
def fetched_disk(fd: int, *, folder: str, check: Callable[[], None]) -> Iterator[Disk]:
    """The disk in a file that came from somebody else, as root's own: a raw disk, a qcow2 or a vmdk.

    What is no raw disk is unpacked in `folder`, by a program without privileges; `check` may end that by
    raising. Raises as `open_disk`.
    """
    with ExitStack() as stack:
        format_ = format_of(os.pread(fd, qemu.HEAD, 0))
        if format_ == "raw":
            _refuse_by_end(fd)
        else:
            raw = qemu.unpacked(fd, format_, folder, unprivileged=True, check=check)
            fd = stack.enter_context(raw).fileno()
        yield Disk(fd, os.lseek(fd, 0, os.SEEK_END))


def _refuse_by_end(fd: int) -> None:
    size = os.lseek(fd, 0, os.SEEK_END)
    tail = os.pread(fd, _TAIL, size - _TAIL) if size >= _TAIL else b""
    _refuse(tail, _ENDS)


def _refuse(found: bytes, others: Mapping[bytes, tuple[str, str]]) -> None:
    for magic, (what, instead) in others.items():
        if found.startswith(magic):
            raise UsageError(f"the disk is {what}, which is not taken", hint=f"{instead}; or take it as raw")


def _what(kind: int) -> str:
    neither = "neither a file nor a block device"
    return f"a character device, {neither}" if stat.S_ISCHR(kind) else neither


def _instead(path: str) -> str:
    """Illumos has each disk twice; the character device takes reads of whole sectors only."""
    for raw, block in (("/dev/zvol/rdsk/", "/dev/zvol/dsk/"), ("/dev/rdsk/", "/dev/dsk/")):
        if path.startswith(raw):
            return f"name the block device of the same disk, {block}{path.removeprefix(raw)}"
    return "name a disk"


def format_of(head: bytes) -> qemu.Format:
    """The format of the disk that begins so. Raises `UsageError` for what has to be unpacked otherwise."""
    for magic, format_ in qemu.MAGICS.items():
        if head.startswith(magic):
            return format_
    _refuse(head, _OTHERS)
    _refuse(head[_STREAM_AT:], _STREAMS)
    return "raw"
