"""Answers the kernel's questions about the tree. Importing it needs pyfuse3.

No handler waits for anything, so each answers before the tree can change: a reader sees all of a change or
nothing of it. pyfuse3 turns only `FUSEError` into an answer; anything else would leave the reader waiting for
ever, and so every handler is `_answered`.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pyfuse3
import structlog

from imgstored.view.tree import ROOT_INODE, File, Folder, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from imgstored.view.tree import Node, Tree

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for which the kernel need not ask again. It is notified of changes at once, so this bounds only how
#: long an old state can be seen if a notification fails.
_REMEMBERED = 300.0

_BLOCK = 4096


def _answered(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Answers with EIO if the handler fails unexpectedly, with a traceback in the log."""

    @functools.wraps(handler)
    async def answering(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception:
            log.exception("a question of the kernel failed", question=handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return answering


class Operations(pyfuse3.Operations):
    """The tree as pyfuse3's operations. All in trio's thread."""

    supports_dot_lookup = False  # no export by NFS
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        # The inodes that the kernel knows, and its lookup counts: it may use an inode until the count is
        # zero.
        self._known: dict[int, Node] = {ROOT_INODE: tree.root}
        self._lookups: dict[int, int] = {}
        self._handles = itertools.count(1)
        self._open_files: dict[int, File] = {}
        self._open_folders: dict[int, Folder] = {}

    # -- names -----------------------------------------------------------------------------------------------

    @_answered
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """The attributes of the node of that name in a folder."""
        node = self._folder(parent_inode).node(name)
        if node is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        attributes = _attributes(node)
        self._count_lookup(node)
        return attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel has forgotten each inode so many times."""
        for inode, count in inode_list:
            left = self._lookups.get(inode, 0) - count
            if left > 0:
                self._lookups[inode] = left
            else:
                self._lookups.pop(inode, None)
                if inode != ROOT_INODE:
                    self._known.pop(inode, None)

    @_answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """The attributes of a node: kind, size and so on."""
        return _attributes(self._node(inode))

    @_answered
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """The target of a link."""
        node = self._node(inode)
        if not isinstance(node, Link):
            raise pyfuse3.FUSEError(errno.EINVAL)
        return node.target

    # -- folders ---------------------------------------------------------------------------------------------

    @_answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """A handle by which the folder is listed."""
        folder = self._folder(inode)
        handle = next(self._handles)
        self._open_folders[handle] = folder
        return handle

    @_answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Lists as many entries as fit, from where the last call ended."""
        for entry in self._open_folders[fh].after(start_id):
            if not pyfuse3.readdir_reply(token, entry.name, _attributes(entry.node), entry.id):
                break
            self._count_lookup(entry.node)

    @_answered
    async def releasedir(self, fh: int) -> None:
        """The handle is used no longer."""
        del self._open_folders[fh]

    # -- files -----------------------------------------------------------------------------------------------

    @_answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """A handle by which the file is read, also after it has gone from the tree."""
        node = self._node(inode)
        if not isinstance(node, File):
            raise pyfuse3.FUSEError(errno.EISDIR)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        handle = next(self._handles)
        self._open_files[handle] = node
        return pyfuse3.FileInfo(fh=handle, keep_cache=True)  # the bytes of an inode never change

    @_answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Up to `size` bytes from `off` on; fewer only at the end."""
        return self._open_files[fh].content[off : off + size]

    @_answered
    async def flush(self, fh: int) -> None:
        """Somebody has closed the file."""

    @_answered
    async def release(self, fh: int) -> None:
        """The handle is used no longer."""
        del self._open_files[fh]

    # -- the whole -------------------------------------------------------------------------------------------

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The figures of a full file system, as `df` shows read-only ones."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_files = len(self._tree.root.entries)
        data.f_namemax = 255
        return data

    def _node(self, inode: int) -> Node:
        try:
            return self._known[inode]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ESTALE) from None

    def _folder(self, inode: int) -> Folder:
        node = self._node(inode)
        if not isinstance(node, Folder):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return node

    def _count_lookup(self, node: Node) -> None:
        self._known[node.inode] = node
        self._lookups[node.inode] = self._lookups.get(node.inode, 0) + 1


async def _refused(*_: Any, **__: Any) -> Any:
    """Nothing here can be changed. The kernel says so itself until somebody remounts the view writable."""
    raise pyfuse3.FUSEError(errno.EROFS)


for _name in (
    "create link mkdir mknod removexattr rename rmdir setattr setxattr symlink unlink write".split()  # noqa: SIM905 - reads better
):
    setattr(Operations, _name, _refused)


def _attributes(node: Node) -> pyfuse3.EntryAttributes:
    attributes = pyfuse3.EntryAttributes()
    if isinstance(node, Folder):
        mode, size = stat.S_IFDIR | 0o555, 0
    elif isinstance(node, Link):
        mode, size = stat.S_IFLNK | 0o777, len(node.target)
    else:
        mode, size = stat.S_IFREG | 0o444, len(node.content)
    attributes.st_ino = node.inode
    attributes.st_mode = mode
    attributes.st_size = size
    attributes.st_blksize = _BLOCK
    attributes.st_blocks = -(-size // 512)
    attributes.st_nlink = 1  # of a folder: not counted, as in btrfs
    attributes.st_uid, attributes.st_gid = os.geteuid(), os.getegid()
    attributes.st_mtime_ns = attributes.st_ctime_ns = attributes.st_atime_ns = node.changed
    attributes.entry_timeout = attributes.attr_timeout = _REMEMBERED
    return attributes
