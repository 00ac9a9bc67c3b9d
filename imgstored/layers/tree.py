"""Applies the entries of a layer to the tree of the layers below it.

Everything happens by descriptors below the tree's root, and every folder is opened without following links.
The only links that are followed are those that the image itself has among a path's folders, and those are
followed here, component by component, as a process would that has the root as its own (chroot): `..` ends at
the root, and an absolute target begins there. Nobody else may change the tree meanwhile: it is in a folder of
root alone. All calls block.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import DamagedLayerError, LayerError
from imgstored.layers.entries import MAX_DEPTH, MAX_ENTRIES, MAX_NAME, MAX_PATH, Kind, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from imgstored.layers.entries import Entry, Path, Readable

#: Bytes that are copied at a time.
_PIECE: Final = 1 << 20
#: Symbolic links on the way to one file; Linux's limit.
_MAX_LINKS: Final = 40
#: Bytes that a file takes besides its contents, roughly.
_INODE: Final = 1024
_TYPES: Final = {Kind.FIFO: stat.S_IFIFO, Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Extended attributes that a program in the image may read; others belong to the host, such as those of
#: overlay file systems, SELinux and IMA.
ATTRIBUTES: Final = ("user.", "security.capability")
#: Bytes that a file system needs for the largest attribute, which Linux bounds at 64 KiB (XATTR_SIZE_MAX).
_LARGEST_ATTRIBUTE: Final = 1 << 20
#: What a system answers that has no extended attributes, or not for this kind of file.
_NO_ATTRIBUTES: Final = frozenset(
    (
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ENOSYS,
        # It is no name, or no value, of an attribute here.
        errno.EINVAL,
        errno.ERANGE,
        errno.E2BIG,
    )
)
#: What a system answers where it cannot have such a file: more links than it counts, a name that is no UTF-8
#: where it has no other, a file that is too large.
_IMPOSSIBLE: Final = frozenset(
    (errno.EMLINK, errno.EILSEQ, errno.EFBIG, errno.EINVAL, errno.ENAMETOOLONG, errno.EOVERFLOW)
)
_ZEROS: Final = bytes(_PIECE)


class Applied(Struct):
    """Counts of what was written, and of what this host or the tree's file system could not keep."""

    entries: int = 0
    size: int = 0  #: bytes of files
    devices: int = 0  #: devices that were left out
    attributes: int = 0  #: extended attributes that were left out


def apply(
    entries: Iterable[tuple[Entry, Readable | None]],
    root: int,
    *,
    take: Callable[[int], None],
    devices: bool,
) -> Applied:
    """Applies the entries, in order, to the tree of which the folder `root` is the root.

    `take` is called with the bytes that are about to be written, 0 for those of a hole, and may raise.
    Without `devices`, device files are left out, as imgadm leaves them out: what a machine may see is for its
    brand to decide.

    A whiteout removes only what the layers below have, wherever in the layer it stands. Raises `LayerError`
    for an entry that cannot be applied, and `OSError`.
    """
    tree = _Tree(root, take, devices=devices)
    try:
        for entry, contents in entries:
            tree.apply(entry, contents)
    finally:
        tree.close()
    return tree.applied


class _Tree:
    def __init__(self, root: int, take: Callable[[int], None], *, devices: bool) -> None:
        self._root = root
        self._take = take
        self._devices = devices
        self.applied = Applied()
        #: What this layer has placed, by the hash of the path: whiteouts spare it.
        self._placed: set[int] = set()
        #: The folder of the last entry: its path as written, its path without links, a descriptor, and its
        #: time of change in nanoseconds. Most entries share it with the one before.
        self._last: tuple[Path, Path, int, int] | None = None

    def close(self) -> None:
        """Gives the last folder its time back, and closes it."""
        if self._last is not None:
            _, _, fd, mtime = self._last
            self._last = None
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    def apply(self, entry: Entry, contents: Readable | None) -> None:
        """Applies one entry. Raises `LayerError` and `OSError`."""
        self.applied.entries += 1
        try:
            self._apply(entry, contents)
        except OSError as error:
            if error.errno in _IMPOSSIBLE:
                why = os.strerror(error.errno)
                raise _beyond(f"{_named(entry.path)} cannot be on this host: {why}") from error
            raise

    def _apply(self, entry: Entry, contents: Readable | None) -> None:
        if entry.kind in (Kind.OPAQUE, Kind.WHITEOUT):
            # What is removed may be on the way to the last folder.
            self.close()
            self._hide(entry)
        elif not entry.path:
            self.close()
            self._describe_folder(self._root, entry)
        else:
            self._place(entry, contents)

    # -- what a layer adds -----------------------------------------------------------------------------------

    def _place(self, entry: Entry, contents: Readable | None) -> None:
        within, folder = self._folder(entry.path[:-1])
        name = entry.path[-1]
        path = (*within, name)
        self._take(_INODE)
        if entry.kind in (Kind.CHARACTER, Kind.BLOCK) and not self._devices:
            self.applied.devices += 1
            self._remove(folder, name, path)
            return
        if entry.kind is Kind.HARD_LINK:
            self._link(entry, folder, name, path)
        elif entry.kind is Kind.FOLDER:
            self._make_folder(entry, folder, name, path)
        else:
            self._remove(folder, name, path)
            self._make(entry, contents, folder, name)
        self._note(path)

    def _note(self, path: Path) -> None:
        self._placed.add(hash(path))
        if len(self._placed) > MAX_ENTRIES:
            raise _beyond(f"it makes more than {MAX_ENTRIES} files and folders")

    def _make_folder(self, entry: Entry, folder: int, name: bytes, path: Path) -> None:
        there = _status(folder, name)
        if there is None or not stat.S_ISDIR(there.st_mode):
            self._remove(folder, name, path)
            os.mkdir(name, 0o700, dir_fd=folder)
        fd = os.open(name, _FOLDER, dir_fd=folder)
        try:
            self._describe_folder(fd, entry)
        finally:
            os.close(fd)

    def _describe_folder(self, fd: int, entry: Entry) -> None:
        self._describe(fd, entry)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _make(self, entry: Entry, contents: Readable | None, folder: int, name: bytes) -> None:
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=folder)
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)
        elif contents is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                self._fill(fd, entry, contents)
                self._describe(fd, entry)
                os.utime(fd, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(fd)
        else:
            os.mknod(name, _TYPES[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=folder)
            # By name: to open a FIFO waits, and to open a device acts.
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
            os.chmod(name, entry.mode, dir_fd=folder)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def _fill(self, fd: int, entry: Entry, contents: Readable) -> None:
        left = entry.size
        while left:
            piece = contents.read(min(_PIECE, left))
            if not piece:
                raise _refused(f"{_named(entry.path)} is cut short")
            start = entry.size - left
            left -= len(piece)
            self.applied.size += len(piece)
            if len(piece) == _PIECE and piece == _ZEROS:
                self._take(0)  # a hole, as it mostly was where the layer was made
                continue
            self._take(len(piece))
            view = memoryview(piece)
            while view:
                written = os.pwrite(fd, view, start)
                start, view = start + written, view[written:]
        os.ftruncate(fd, entry.size)

    def _describe(self, fd: int, entry: Entry) -> None:
        """Owner, mode and attributes; the owner first, since fchown(2) takes setuid and capabilities away."""
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        for name, value in entry.attributes.items():
            if not (name.startswith(ATTRIBUTES) and _set_attribute(fd, name, value)):
                self.applied.attributes += 1

    def _link(self, entry: Entry, folder: int, name: bytes, path: Path) -> None:
        linked = entry.linked[-1]
        found = self._find(entry.linked[:-1])
        if found is None:
            raise _refused(f"the hard link {_named(entry.path)} is to no file")
        within, source = found
        try:
            there = _status(source, linked)
            if there is None or stat.S_ISDIR(there.st_mode):
                raise _refused(f"the hard link {_named(entry.path)} is to no file")
            if (*within, linked) != path:
                self._remove(folder, name, path)
                os.link(linked, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise _refused(f"the hard link {_named(entry.path)} replaces what it names") from error
        finally:
            os.close(source)

    # -- what a layer removes --------------------------------------------------------------------------------

    def _hide(self, entry: Entry) -> None:
        opaque = entry.kind is Kind.OPAQUE
        found = self._find(entry.path if opaque else entry.path[:-1])
        if found is None:
            return
        within, folder = found
        try:
            with _unchanged(folder):
                for name in _names(folder) if opaque else entry.path[-1:]:
                    self._remove(folder, name, (*within, name), spare=self._placed)
        finally:
            os.close(folder)

    def _remove(self, folder: int, name: bytes, path: Path, *, spare: Collection[int] = ()) -> None:
        """Removes a file or a whole folder, but for what has its path's hash in `spare`."""
        there = _status(folder, name)
        if there is None:
            return
        if len(path) > MAX_DEPTH:
            raise _beyond("its folders are too deep")
        kept = hash(path) in spare
        if not stat.S_ISDIR(there.st_mode):
            if not kept:
                os.unlink(name, dir_fd=folder)
            return
        fd = os.open(name, _FOLDER, dir_fd=folder)
        try:
            with _unchanged(fd):
                for child in _names(fd):
                    self._remove(fd, child, (*path, child), spare=spare)
            empty = not _names(fd)
        finally:
            os.close(fd)
        if empty and not kept:
            os.rmdir(name, dir_fd=folder)

    # -- the way to a folder ---------------------------------------------------------------------------------

    def _folder(self, path: Path) -> tuple[Path, int]:
        """The folder of an entry, which is made where it is missing; the descriptor stays this object's."""
        if self._last is None or self._last[0] != path:
            self.close()
            within, fd = self._resolve(path, make=True)
            self._last = (path, within, fd, os.fstat(fd).st_mtime_ns)
        return self._last[1], self._last[2]

    def _find(self, path: Path) -> tuple[Path, int] | None:
        """The folder, and a descriptor of the caller's; None where there is none."""
        try:
            return self._resolve(path, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _resolve(self, path: Path, *, make: bool) -> tuple[Path, int]:
        """Follows the path as a process with this root would: its path without links, and a descriptor."""
        ahead = list(reversed(path))
        within: Path = ()
        links = 0
        fd = os.dup(self._root)
        try:
            while ahead:
                name = ahead.pop()
                _check_way(path, links, len(ahead), within)
                if name == b"..":
                    fd, within = self._again(fd, within[:-1])
                    continue
                there = _status(fd, name)
                if there is not None and stat.S_ISLNK(there.st_mode):
                    target = os.readlink(name, dir_fd=fd)
                    ahead.extend(part for part in reversed(target.split(b"/")) if part not in (b"", b"."))
                    links += 1
                    if target.startswith(b"/"):
                        fd, within = self._again(fd, ())
                    continue
                if make and (there is None or not stat.S_ISDIR(there.st_mode)):
                    self._make_way(fd, name, (*within, name))
                fd = _replaced(fd, os.open(name, _FOLDER, dir_fd=fd))
                within = (*within, name)
        except BaseException:
            os.close(fd)
            raise
        return within, fd

    def _make_way(self, folder: int, name: bytes, path: Path) -> None:
        """A folder that the layer has no entry for."""
        with _unchanged(folder):
            self._remove(folder, name, path)
            os.mkdir(name, 0o755, dir_fd=folder)
            os.chmod(name, 0o755, dir_fd=folder)  # noqa: S103  (as every folder of a distribution has it)
        self._note(path)

    def _again(self, fd: int, path: Path) -> tuple[int, Path]:
        """The folder of a path without links, from the root on; closes `fd`."""
        fd = _replaced(fd, os.dup(self._root))
        for name in path:
            fd = _replaced(fd, os.open(name, _FOLDER, dir_fd=fd))
        return fd, path


def _check_way(path: Path, links: int, ahead: int, within: Path) -> None:
    if links > _MAX_LINKS or ahead > 2 * MAX_DEPTH:
        raise _refused(f"too many links are on the way to {_named(path)}")
    if len(within) >= MAX_DEPTH or sum(map(len, within)) + len(within) > MAX_PATH - MAX_NAME:
        raise _beyond("its folders are too deep")


@contextmanager
def _unchanged(folder: int) -> Iterator[None]:
    """The folder has its old time of change again, whatever comes and goes in it."""
    mtime = os.fstat(folder).st_mtime_ns
    yield
    os.utime(folder, ns=(mtime, mtime))


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _set_attribute(fd: int, name: str, value: bytes) -> bool:
    """Sets an attribute; False if the file cannot have it. Raises `OSError`, for example without room."""
    if not hasattr(os, "setxattr"):  # illumos
        return False
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        # ext4 says that there is no space, too, where all attributes of a file would be more than a block.
        if error.errno not in _NO_ATTRIBUTES and not (error.errno == errno.ENOSPC and _has_room(fd)):
            raise
        return False
    return True


def _has_room(fd: int) -> bool:
    """True if the file system has room for any attribute."""
    state = os.fstatvfs(fd)
    return state.f_bavail * state.f_frsize > _LARGEST_ATTRIBUTE


def _named(path: Path) -> str:
    return shown(b"/".join(path))


def _refused(reason: str) -> LayerError:
    return DamagedLayerError(f"the layer cannot be unpacked: {reason}")


def _beyond(reason: str) -> LayerError:
    """The error for what this host cannot have, whoever sends the layer."""
    return LayerError(f"the layer cannot be unpacked: {reason}")


def _status(folder: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _names(folder: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(folder)]
