"""Makes a folder of plain files equal to the tree. All calls block.

The folder is ours if it has the file `.imgstored`, which is written only into an empty folder. In it, these
are ours: folders named by a uuid, links in `by-name` that lead to one, and `.new-…` and `.old-…`. Everything
else belongs to others and does not change, and no link is ever followed.

An image's folder is built under another name and then renamed, and is renamed away before it is deleted: a
reader sees all of it or nothing, also after a crash.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from imgstored.errors import ConfigError
from imgstored.host import filesystem, lock_holders, shortage
from imgstored.manifest import is_uuid
from imgstored.manifest.values import UUID
from imgstored.view import mountpoint
from imgstored.view.tree import BY_NAME, MANIFEST, File, Folder, Link, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from imgstored.view.tree import Node
    from imgstored.view.tree import Path as TreePath

log = structlog.get_logger(__name__)

MARKER = b".imgstored"
_MARKER_TEXT = b"imgstored keeps this folder: it removes what is named by a uuid and is not installed.\n"
_NEW, _OLD = b".new-", b".old-"
_NEW_LINK = _NEW + b"link"
_NEW_MARKER = _NEW + b"marker"
_TARGET = re.compile(rb"\.\./\.\./" + UUID.pattern.encode())
#: Nanoseconds by which an image's folder is younger than its manifest while its names are those of its begin.
_UNTOUCHED = 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PlainFolder:
    """The folder, opened and locked. For one thread at a time; the caller closes it.

    Raises `ConfigError` if it belongs to others, another imgstored uses it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._behind: dict[TreePath, None] = {}  # paths that are not yet as in the tree
        try:
            self._fd = _opened(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            self._marker = self._claim()
        except BaseException as error:
            os.close(self._fd)
            if isinstance(error, OSError):
                raise _unusable(path, error) from error
            raise

    def close(self) -> None:
        """Closes the folder; the files stay."""
        os.close(self._marker)
        os.close(self._fd)

    def update(self, tree: Tree, paths: Iterable[TreePath]) -> None:
        """Makes these paths equal to the tree, and those that failed before. Logs failures."""
        for path in [*self._behind, *paths]:
            self._behind.pop(path, None)
            try:
                self._make(path, tree.at(path))
            except OSError as error:
                self._behind[path] = None
                log.error("the view is behind", path=self._name(*path), error=str(error))

    def synchronise(self, tree: Tree) -> None:
        """Makes the folder equal to the tree. Logs failures; raises `ConfigError` if it cannot be read."""
        try:
            with self._inner(BY_NAME, make=True) as by_name:
                images, links = self._found_images(), self._found_links(by_name)
        except OSError as error:
            raise _unusable(self._path, error) from error
        entries, wanted = tree.root.entries, _links(tree)
        gone: list[TreePath] = [path for path in images if path[0] not in entries]
        gone += [path for path in links if path not in wanted]
        there = [
            (name,)
            for name, entry in entries.items()
            if name != BY_NAME and isinstance(entry.node, Folder) and not self._is_current(name, entry.node)
        ]
        others = [path for path, link in wanted.items() if links.get(path) != link.target]
        self.update(tree, [*reversed(gone), *there, *others])

    def disown(self) -> None:
        """Removes all that is ours, and the marker. Logs what cannot be removed, and leaves it."""
        self.synchronise(Tree(lambda: 0))
        try:
            os.rmdir(BY_NAME, dir_fd=self._fd)
            os.unlink(MARKER, dir_fd=self._fd)
        except OSError as error:
            log.warning("something is left of the view", path=str(self._path), error=str(error))

    # -- ownership -------------------------------------------------------------------------------------------

    def _claim(self) -> int:
        """The marker, open and locked."""
        replaced = False
        while True:
            try:
                marker = os.open(MARKER, _PLAIN, dir_fd=self._fd)
            except FileNotFoundError:
                found = _listed(self._fd)
                if found:
                    raise ConfigError(
                        f"{self._path} is not empty: it has {os.fsdecode(found[0][0])}",
                        hint="the view needs a folder of its own; empty it, or choose another `view.path`",
                    ) from None
                marker = _new_marker(MARKER, self._fd)
            try:
                self._lock(marker)
                if replaced or _is_private(marker):
                    return marker
                # Others may have opened the marker, and could lock it at any time: a new one replaces it.
                if _is_at(MARKER, marker, self._fd):
                    self._delete(_NEW_MARKER)
                    os.close(_new_marker(_NEW_MARKER, self._fd))
                    os.rename(_NEW_MARKER, MARKER, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                    replaced = True  # not every file system can keep it private
            except BaseException:
                os.close(marker)
                raise
            os.close(marker)

    def _lock(self, marker: int) -> None:
        """Locks the marker; tolerates a lock of another program if the marker is not private."""
        try:
            filesystem.try_flock(marker)
        except BlockingIOError:
            holder = lock_holders.of_flock(marker)
            if not _is_private(marker) and (holder is None or holder.foreign):
                log.warning("the view's marker is locked, and is replaced", held_by=str(holder or "unknown"))
                return
            by = "" if holder is None else f": {holder} has its lock"
            raise ConfigError(
                f"another imgstored keeps {self._path}{by}",
                hint="stop it, or choose another `view.path`",
            ) from None
        except OSError as error:
            raise ConfigError(
                f"the view's folder {self._path} cannot be locked: {shortage.why(error)}",
                hint=f"{filesystem.LOCKS_HINT}; `view.path` names it",
            ) from error

    # -- the present files -----------------------------------------------------------------------------------

    def _found_images(self) -> list[TreePath]:
        """Our images; removes what a crash has left."""
        found: list[TreePath] = []
        for name, is_folder in _listed(self._fd):
            if name.startswith((_NEW, _OLD)):
                self._delete(name)
            elif is_folder and is_uuid(os.fsdecode(name)):
                found.append((name,))
            elif name not in {MARKER, BY_NAME}:
                log.warning("left alone in the view's folder", path=self._name(name))
        return found

    def _found_links(self, by_name: int) -> dict[TreePath, bytes]:
        """Our links, and the target of each."""
        found: dict[TreePath, bytes] = {}
        for name, is_folder in _listed(by_name):
            if not is_folder:
                log.warning("left alone in the view's folder", path=self._name(BY_NAME, name))
                continue
            with _inner(by_name, name) as folder:
                for version in _names(folder):
                    if (target := _target_of(version, folder)) is not None:
                        found[BY_NAME, name, version] = target
                    else:
                        log.warning(
                            "left alone in the view's folder", path=self._name(BY_NAME, name, version)
                        )
        return found

    def _is_current(self, name: bytes, wanted: Folder) -> bool:
        # A start does this for each image: with few calls, and without what makes code short here.
        try:
            folder = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISDIR(folder.st_mode):
                return False
            written = None
            for entry in wanted.entries.values():
                path = name + b"/" + entry.name
                if isinstance(entry.node, Link):
                    if os.readlink(path, dir_fd=self._fd) != entry.node.target:
                        return False
                    continue
                assert isinstance(entry.node, File)
                changed = _changed_if_same(path, entry.node.content, self._fd)
                if changed is None:
                    return False
                if entry.name == MANIFEST:
                    written = changed
            if written is not None and folder.st_mtime_ns == written + _UNTOUCHED:
                return True
            with self._inner(name) as opened:
                return _names(opened) == wanted.entries.keys()
        except OSError:
            return False

    # -- changes ---------------------------------------------------------------------------------------------

    def _make(self, path: TreePath, node: Node | None) -> None:
        if isinstance(node, Folder):
            self._put_image(path[0], node)
        elif isinstance(node, Link):
            self._put_link(path, node)
        elif len(path) == 1:
            self._take_away(path[0])
        else:
            self._drop_link(path)

    def _put_image(self, name: bytes, image: Folder) -> None:
        if self._is_current(name, image):
            return
        self._delete(_NEW + name)
        try:
            os.mkdir(_NEW + name, 0o700, dir_fd=self._fd)
            with self._inner(_NEW + name) as folder:
                for entry in image.entries.values():
                    if isinstance(entry.node, File):
                        _write(entry.name, entry.node.content, folder)
                    elif isinstance(entry.node, Link):
                        os.symlink(entry.node.target, entry.name, dir_fd=folder)
                os.fchmod(folder, 0o555)
                _mark_untouched(folder)
        except OSError as error:
            # The file system may be full, and the half-made folder takes a part of it.
            shortage.explain(error, self._fd)
            with suppress(OSError):
                self._delete(_NEW + name)
            raise
        self._take_away(name)
        os.rename(_NEW + name, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _take_away(self, name: bytes) -> None:
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode):
                raise FileExistsError(errno.EEXIST, "in the way, and not of this view", os.fsdecode(name))
        except FileNotFoundError:
            return
        self._delete(_OLD + name)
        os.rename(name, _OLD + name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._delete(_OLD + name)

    def _delete(self, name: bytes) -> None:
        try:
            with self._inner(name) as folder:
                os.fchmod(folder, 0o700)  # or nobody but root could empty it
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise
            os.unlink(name, dir_fd=self._fd)
        else:
            shutil.rmtree(os.fsdecode(name), dir_fd=self._fd)

    def _put_link(self, path: TreePath, link: Link) -> None:
        by_name, name, version = path
        # An image that could not be made gets no link either; both are made later.
        os.stat(link.target.rpartition(b"/")[2], dir_fd=self._fd, follow_symlinks=False)
        try:
            with self._inner(by_name, make=True) as outer, _inner(outer, name, make=True) as folder:
                self._put_link_in(folder, version, link)
        except OSError as error:
            shortage.explain(error, self._fd)
            with suppress(OSError), self._inner(by_name) as outer:
                os.rmdir(name, dir_fd=outer)  # if it is empty
            raise

    def _put_link_in(self, folder: int, version: bytes, link: Link) -> None:
        try:
            there = os.readlink(version, dir_fd=folder)
        except FileNotFoundError:
            pass
        else:
            if there == link.target:
                return
            if not _TARGET.fullmatch(there):
                raise FileExistsError(errno.EEXIST, "in the way, and not of this view", os.fsdecode(version))
        self._delete(_NEW_LINK)
        os.symlink(link.target, _NEW_LINK, dir_fd=self._fd)
        os.rename(_NEW_LINK, version, src_dir_fd=self._fd, dst_dir_fd=folder)

    def _drop_link(self, path: TreePath) -> None:
        by_name, name, version = path
        try:
            with self._inner(by_name) as outer:
                with _inner(outer, name) as folder:
                    if _target_of(version, folder) is not None:
                        os.unlink(version, dir_fd=folder)
                os.rmdir(name, dir_fd=outer)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise

    def _inner(self, name: bytes, *, make: bool = False) -> AbstractContextManager[int]:
        return _inner(self._fd, name, make=make)

    def _name(self, *components: bytes) -> str:
        return str(self._path.joinpath(*map(os.fsdecode, components)))


def withdraw(path: Path) -> None:
    """Removes what is ours from a folder of ours. Raises `ConfigError` if another imgstored uses it."""
    try:
        os.lstat(path / os.fsdecode(MARKER))
    except OSError:
        return
    folder = PlainFolder(path)
    try:
        folder.disown()
    finally:
        folder.close()


def _opened(path: Path) -> int:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(path, _FOLDER)
    except OSError as error:
        if error.errno not in mountpoint.DEAD:
            raise
    return os.open(mountpoint.take_over(path), _FOLDER)


def _unusable(path: Path, error: OSError) -> ConfigError:
    hint = "choose another `view.path`"
    if shortage.is_full(error):
        hint = f"free space on its file system, or {hint}"
        return ConfigError(
            f"cannot use {path} for the view: {shortage.why(error)}{shortage.cause(path)}", hint=hint
        )
    return ConfigError(f"cannot use {path} for the view: {shortage.why(error)}", hint=hint)


@contextmanager
def _inner(outer: int, name: bytes, *, make: bool = False) -> Iterator[int]:
    """Opens a folder in a folder; never follows a link."""
    try:
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
    except FileNotFoundError:
        if not make:
            raise
        os.mkdir(name, 0o755, dir_fd=outer)
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
        os.fchmod(folder, 0o755)  # whatever the umask
    try:
        yield folder
    finally:
        os.close(folder)


def _listed(folder: int) -> list[tuple[bytes, bool]]:
    """Each name in a folder, and whether it is a folder; links are not followed."""
    with os.scandir(folder) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]


def _names(folder: int) -> set[bytes]:
    return set(map(os.fsencode, os.listdir(folder)))


def _mark_untouched(folder: int) -> None:
    """Makes the time of an image's folder, which is complete, follow from that of its manifest.

    Names that come to it later, or go, change its time.
    """
    written = os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False).st_mtime_ns
    os.utime(folder, ns=(written, written + _UNTOUCHED))


def _new_marker(name: bytes, folder: int) -> int:
    """Creates a private marker: a user who can open a file can lock it."""
    marker = os.open(name, _PLAIN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    os.write(marker, _MARKER_TEXT)
    return marker


def _is_private(file: int) -> bool:
    """True if only this user and root can open the file."""
    found = os.fstat(file)
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _is_at(name: bytes, file: int, folder: int) -> bool:
    return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(file))


def _target_of(name: bytes, folder: int) -> bytes | None:
    """The target of a link of ours; None for anything else."""
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:
        return None
    return target if _TARGET.fullmatch(target) else None


def _changed_if_same(path: bytes, content: bytes, folder: int) -> int | None:
    """The time of a plain file of exactly this content, in ns; None if it differs."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(fd)
        same = (
            found.st_mode == stat.S_IFREG | 0o444
            and found.st_size == len(content)
            and os.pread(fd, len(content) + 1, 0) == content
        )
        return found.st_mtime_ns if same else None
    finally:
        os.close(fd)


def _write(name: bytes, content: bytes, folder: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, 0o444)  # whatever the umask


def _links(tree: Tree) -> dict[TreePath, Link]:
    by_name = tree.at((BY_NAME,))
    assert isinstance(by_name, Folder)
    return {
        (BY_NAME, name, version): link.node
        for name, entry in by_name.entries.items()
        if isinstance(entry.node, Folder)
        for version, link in entry.node.entries.items()
        if isinstance(link.node, Link)
    }
