"""Trees of files in the embedded pool: their fingerprints, checks and copies."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import StreamError
from imgstored.hashing import Fingerprint, Hasher
from imgstored.layers.tree import ATTRIBUTES
from imgstored.pools.embedded.files import BLOCK, Folder, copy_sparsely
from imgstored.pools.embedded.notes import TREE, ImageNote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import OnRead, Room

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Mode, user, group, device, links, time of change in nanoseconds, bytes.
_FACTS: Final = struct.Struct("<IIIQQQQ")
_MAX: Final = (1 << 64) - 1


class Facts(Struct, frozen=True):
    """The facts about a whole tree."""

    fingerprint: Fingerprint
    size: int  #: bytes of all files
    used: int  #: bytes that they occupy


def facts_of(root: int, on_read: OnRead, algorithm: str | None = None) -> Facts:
    """Reads all of the tree of which the folder `root` is the root.

    Calls `on_read` with the number of bytes so far, which may raise. Raises `OSError`; `KeyError` if the
    algorithm is not installed.
    """
    hasher = Hasher(algorithm)
    seen: set[int] = set()
    size = used = 0

    def add(data: bytes) -> None:
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)

    for folder, name, path in walk(root):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False) if name else os.fstat(folder)
        add(path)
        hasher.update(_facts(status))
        if status.st_ino not in seen:
            used += status.st_blocks * 512
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            seen.add(status.st_ino)
        if stat.S_ISLNK(status.st_mode):
            add(os.readlink(name, dir_fd=folder))
        elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
            fd = os.open(name, _READ, dir_fd=folder) if name else os.dup(folder)
            try:
                for attribute, value in attributes_of(fd):
                    add(os.fsencode(attribute))
                    add(value)
                while stat.S_ISREG(status.st_mode) and (data := os.read(fd, BLOCK)):
                    hasher.update(data)
                    on_read(size)
            finally:
                os.close(fd)
    return Facts(hasher.fingerprint(), size, used)


def check_tree(folder: Folder, note: ImageNote, on_read: OnRead) -> None:
    """Reads all of an image's tree. Raises `StreamError` if it was changed, and `OSError`."""
    algorithm, _, digest = note.tree_hash.rpartition(":")
    with folder.folder(TREE) as tree:
        try:
            facts = facts_of(tree.fd, on_read, algorithm)
        except KeyError:
            raise StreamError(
                f"its tree was hashed with {algorithm[:40]}, which is not installed here"
            ) from None
    if facts.fingerprint.digest.hex() != digest:
        raise StreamError("its tree is not what its layers made")


def copy_tree(source: int, target: int, room: Room) -> None:
    """Copies all that is below the folder `source` into the empty folder `target`. Raises `OSError`."""
    copies: dict[int, bytes] = {}
    folders: list[tuple[bytes, os.stat_result]] = []
    for folder, name, path in walk(source):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False) if name else os.fstat(folder)
        if stat.S_ISDIR(status.st_mode):
            folders.append((path or b".", status))
            if name:
                os.mkdir(path, 0o700, dir_fd=target)
            _copy_attributes(folder, name or b".", target, path or b".")
        elif status.st_nlink > 1 and status.st_ino in copies:
            os.link(copies[status.st_ino], path, src_dir_fd=target, dst_dir_fd=target)
        else:
            if status.st_nlink > 1:
                copies[status.st_ino] = path
            _copy(folder, name, target, path, status, room)
    # Last, because each new entry changes its folder's time.
    for path, status in folders:
        _describe(target, path, status)


def _copy(folder: int, name: bytes, target: int, path: bytes, status: os.stat_result, room: Room) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        with (
            _closing(os.open(name, _READ, dir_fd=folder)) as original,
            _closing(os.open(path, _NEW, 0o600, dir_fd=target)) as copy,
        ):
            copy_sparsely(original, copy, 0, status.st_size, room)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=folder), path, dir_fd=target)
    else:
        os.mknod(path, stat.S_IFMT(mode) | 0o600, status.st_rdev, dir_fd=target)
    _describe(target, path, status)
    if stat.S_ISREG(mode):
        _copy_attributes(folder, name, target, path)


def _describe(target: int, path: bytes, status: os.stat_result) -> None:
    os.chown(path, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode), dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(path, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_attributes(folder: int, name: bytes, target: int, path: bytes) -> None:
    with (
        _closing(os.open(name, _READ, dir_fd=folder)) as original,
        _closing(os.open(path, _READ, dir_fd=target)) as copy,
    ):
        for attribute, value in attributes_of(original):
            os.setxattr(copy, attribute, value)


def walk(root: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Each file and folder of a tree, the root first, in the order of their names.

    Yields a descriptor of the folder that it is in, its name, and its path from the root; for the root its
    own descriptor, and no name.
    """
    yield root, b"", b""
    yield from _below(root, b"")


def _below(folder: int, path: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
        here = path + b"/" + name if path else name
        yield folder, name, here
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            fd = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _below(fd, here)
            finally:
                os.close(fd)


def attributes_of(fd: int) -> Iterator[tuple[str, bytes]]:
    """The extended attributes that a layer may set, sorted."""
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            for name in sorted(os.listxattr(fd)):
                if name.startswith(ATTRIBUTES):
                    yield name, os.getxattr(fd, name)


def _facts(status: os.stat_result) -> bytes:
    is_folder = stat.S_ISDIR(status.st_mode)
    return _FACTS.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        # File systems count a folder's links and bytes each in their own way.
        0 if is_folder else status.st_nlink,
        # Before 1970 as a signed number has it; from the year 2262 on that has no room.
        status.st_mtime_ns & _MAX,
        0 if is_folder else status.st_size,
    )


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
