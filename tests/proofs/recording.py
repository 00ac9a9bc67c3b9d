"""A file system in memory that writes down each change, so that what a power cut leaves can be made from it.

It is mounted by FUSE, and whoever uses it, SQLite too, uses the real calls of the kernel. A change of a file
is durable once that file is synced, and a change of a folder once that folder is; both once all is synced.
The kernel does not tell FUSE of syncfs(2): whoever calls it says so by asking for the attribute `SYNCED`.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

ROOT = pyfuse3.ROOT_INODE


@dataclass(frozen=True, slots=True)
class Change:
    """One change: of which inode, and of a folder's entry which names. `call` is what the kernel calls it."""

    call: str
    inode: int  #: of the file, or of the folder whose entry it is
    name: bytes = b""
    child: int = 0
    other: int = 0  #: the folder that an entry is moved to
    other_name: bytes = b""
    offset: int = 0  #: or size, or mode, or the time of its last change in nanoseconds
    data: bytes = b""


#: Changes of a folder's entries.
ENTRIES = frozenset({"create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"})
#: Changes of a file: of what is in it, and of its mode.
CONTENT = frozenset({"write", "truncate", "mode", "times"})
#: The extended attribute that is asked for once all was synced, and the change that this is.
SYNCED = "user.recording.synced"
SYNC_ALL = "sync-all"


@dataclass
class Node:
    """A file, a folder or a link."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)
    parent: int = ROOT
    links: int = 1
    times: tuple[int, int] = (0, 0)


class Recorder:
    """Nodes, and all changes so far. `fault` is asked before each change, and may raise `OSError`."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self.changes: list[Change] = []
        self.fault: Callable[[Change], None] = lambda change: None
        self._next = ROOT + 1

    def change(self, change: Change) -> None:
        """Makes a change, and writes it down. Raises `OSError`."""
        self.fault(change)
        apply(self.nodes, change)
        self.changes.append(change)

    def number(self) -> int:
        self._next += 1
        return self._next


def apply(nodes: dict[int, Node], change: Change) -> None:
    """Makes a change of nodes, as far as it can be made: what it needs may have been lost."""
    node = nodes.get(change.inode)
    if node is None:
        return
    if change.call in CONTENT:
        _change_file(node, change)
    elif change.call == "rename":
        _rename(nodes, node, change)
    elif change.call in ENTRIES:
        _change_folder(nodes, node, change)
    if change.call in ENTRIES:
        for folder in {change.inode, change.other} & nodes.keys():
            nodes[folder].times = nodes[folder].times[0], time.time_ns()


def _change_file(node: Node, change: Change) -> None:
    match change.call:
        case "write":
            node.data.extend(bytes(max(0, change.offset - len(node.data))))
            node.data[change.offset : change.offset + len(change.data)] = change.data
            node.times = (node.times[0], time.time_ns())
        case "truncate":
            del node.data[change.offset :]
            node.data.extend(bytes(change.offset - len(node.data)))
        case "mode":
            node.mode = stat.S_IFMT(node.mode) | change.offset
        case "times":
            node.times = (node.times[0], change.offset)


def _change_folder(nodes: dict[int, Node], node: Node, change: Change) -> None:
    match change.call:
        case "create" | "mkdir" | "symlink":
            if change.child not in nodes:
                nodes[change.child] = Node(change.offset, bytearray(change.data), parent=change.inode)
            node.entries[change.name] = change.child
        case "link":
            node.entries[change.name] = change.child
            if change.child in nodes:
                nodes[change.child].links += 1
        case "unlink" | "rmdir":
            _drop(nodes, node.entries.pop(change.name, None))


def _rename(nodes: dict[int, Node], node: Node, change: Change) -> None:
    """Whoever syncs the folder to which an entry was moved has it, whether its first name was ever synced."""
    target, moved = nodes.get(change.other), nodes.get(change.child)
    if target is not None and moved is not None:
        if node.entries.get(change.name) == change.child:
            del node.entries[change.name]
        _drop(nodes, target.entries.get(change.other_name))
        target.entries[change.other_name] = change.child
        moved.parent = change.other


def _drop(nodes: dict[int, Node], inode: int | None) -> None:
    """One name fewer. The node stays: a descriptor may be open, or a cut may undo this."""
    if inode is not None and inode in nodes:
        nodes[inode].links -= 1


class _Operations(pyfuse3.Operations):  # type: ignore[misc]
    """The calls of FUSE."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def _node(self, inode: int) -> Node:
        return self._recorder.nodes[inode]

    def _change(self, *arguments: Any, **named: Any) -> None:
        try:
            self._recorder.change(Change(*arguments, **named))
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno) from None

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        node, found = self._node(inode), pyfuse3.EntryAttributes()
        found.st_ino, found.st_mode, found.st_nlink = inode, node.mode, max(node.links, 1)
        found.st_uid, found.st_gid = os.geteuid(), os.getegid()
        found.st_size, found.st_blocks, found.st_blksize = len(node.data), -(-len(node.data) // 512), 4096
        found.st_atime_ns, found.st_mtime_ns = node.times
        found.st_ctime_ns = node.times[1]
        found.entry_timeout = found.attr_timeout = 60
        return found

    def _child(self, parent: int, name: bytes) -> int:
        inode = self._node(parent).entries.get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return inode

    def _new(self, call: str, parent: int, name: bytes, mode: int, data: bytes = b"") -> int:
        if name in self._node(parent).entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        number = self._recorder.number()
        self._change(call, parent, name, number, offset=mode, data=data)
        now = time.time_ns()
        self._node(number).times = now, now
        return number

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
        return self._attributes(self._child(parent_inode, name))

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        return self._attributes(inode)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        if fields.update_size:
            self._change("truncate", inode, offset=attr.st_size)
        if fields.update_mode:
            self._change("mode", inode, offset=stat.S_IMODE(attr.st_mode))
        node = self._node(inode)
        accessed = attr.st_atime_ns if fields.update_atime else node.times[0]
        node.times = accessed, node.times[1]
        if fields.update_mtime:
            self._change("times", inode, offset=attr.st_mtime_ns)
        return self._attributes(inode)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        return self._attributes(self._new("mkdir", parent_inode, name, stat.S_IFDIR | mode & 0o7777))

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        inode = self._new("create", parent_inode, name, stat.S_IFREG | mode & 0o7777)
        return pyfuse3.FileInfo(fh=inode), self._attributes(inode)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        return self._attributes(self._new("symlink", parent_inode, name, stat.S_IFLNK | 0o777, target))

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return bytes(self._node(inode).data)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        self._change("link", new_parent_inode, new_name, inode)
        return self._attributes(inode)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._change("unlink", parent_inode, name, self._child(parent_inode, name))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        child = self._child(parent_inode, name)
        if self._node(child).entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        self._change("rmdir", parent_inode, name, child)

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: Any
    ) -> None:
        child = self._child(old_parent, old_name)
        there = self._node(new_parent).entries.get(new_name)
        if flags or (there is not None and self._node(there).entries):
            raise pyfuse3.FUSEError(errno.EINVAL if flags else errno.ENOTEMPTY)
        self._change("rename", old_parent, old_name, child, new_parent, new_name)

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        if flags & os.O_TRUNC:
            self._change("truncate", inode)
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self._node(fh).data[offset : offset + size])

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self._change("write", fh, offset=offset, data=bytes(data))
        return len(data)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._change("sync", fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._change("sync", fh)

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        if name == SYNCED.encode():
            self._change(SYNC_ALL, inode)
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        # By inode: names may come and go meanwhile.
        entries = sorted((inode, name) for name, inode in self._node(fh).entries.items())
        for inode, name in entries:
            if inode > start_id and not pyfuse3.readdir_reply(token, name, self._attributes(inode), inode):
                return

    async def statfs(self, ctx: Any) -> Any:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks, found.f_bfree, found.f_bavail = 1 << 22, 1 << 21, 1 << 21
        found.f_files, found.f_ffree, found.f_favail = 1 << 20, 1 << 19, 1 << 19
        found.f_namemax = 255
        return found


class Mounted:
    """The recorder's file system, mounted at a folder for the time of the block."""

    def __init__(self, recorder: Recorder, place: Path) -> None:
        self.place = place
        self._recorder = recorder
        self._thread = threading.Thread(target=trio.run, args=(pyfuse3.main,), daemon=True)

    def __enter__(self) -> Mounted:
        self.place.mkdir(parents=True, exist_ok=True)
        options = {*pyfuse3.default_options, "fsname=recorded"}
        pyfuse3.init(_Operations(self._recorder), str(self.place), options)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["/usr/bin/fusermount3", "-u", "-z", str(self.place)], check=True)
        self._thread.join(30)
        pyfuse3.close(unmount=False)
