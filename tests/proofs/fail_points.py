"""Named points, before and after each durable action, at which a daemon of the tests dies.

They are put into the classes from outside, by name: the daemon itself has nothing of them. `Armed` says, in
shared memory, at which point a running daemon dies, and the how-many-th time that it comes there.
"""

from __future__ import annotations

import inspect
import mmap
import os
import signal
import struct
import threading
from typing import TYPE_CHECKING, Any, Final

from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.catalog.receipts import Receipts
from imgstored.imports.delta import Deltas
from imgstored.imports.journal import FileRanges, Journal
from imgstored.imports.leftovers import Leftovers
from imgstored.library.library import Library
from imgstored.pools.embedded import EmbeddedPool, notes, pool, receive, unpack
from imgstored.pools.embedded.receiver import FilesystemReceiver, VolumeReceiver
from imgstored.pools.zfs import ZfsPool
from imgstored.pools.zfs.lzc import Lzc
from imgstored.transfer.payloads import PayloadSpool
from imgstored.transfer.spool import Spool
from imgstored.view.files import FilesView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Points = dict[str, tuple[tuple[Any, ...], str]]

_POOLS: Final = (EmbeddedPool, ZfsPool)
#: By name: where the function is, in each place that calls it by that name, and its attribute there.
_ON_ANY_POOL: Final[_Points] = {
    "spool-write": ((Spool,), "_put"),
    "spool-size": ((Spool,), "begin"),
    "spool-drop": ((Leftovers,), "_remove_spool"),
    "journal-begin": ((Journal,), "begin"),
    "journal-park": ((Journal,), "park"),
    "journal-end": ((Journal,), "end"),
    "journal-spool": ((FileRanges,), "begin"),
    "journal-range": ((FileRanges,), "record"),
    "journal-forget": ((FileRanges,), "forget"),
    "delta-index": ((Deltas,), "_index"),
    "delta-open": ((PayloadSpool,), "open"),
    "delta-take-over": ((PayloadSpool,), "_take_over"),
    "delta-installed": ((PayloadSpool,), "_read_installed"),
    "delta-complete": ((PayloadSpool,), "_complete"),
    "delta-write": ((PayloadSpool,), "_put"),
    "receive": (_POOLS, "receive"),
    "unpack": (_POOLS, "unpack"),
    "manifest-mark": ((ManifestFiles,), "mark"),
    "manifest-write": ((ManifestFiles,), "write"),
    "manifest-unmark": ((ManifestFiles,), "unmark"),
    "manifest-forget": ((ManifestFiles,), "forget"),
    "receipt-write": ((Receipts,), "write"),
    "receipt-forget": ((Receipts,), "forget"),
    "publish": (_POOLS, "publish"),
    "view-add": ((FilesView,), "add"),
    "view-remove": ((FilesView,), "remove"),
    "destroy": (_POOLS, "destroy"),
    "abandon": (_POOLS, "abandon"),
    "hold": (_POOLS, "hold"),
    "release": (_POOLS, "release"),
    "library-keep": ((Library,), "keep"),
    "library-add": ((Library,), "_add"),
    "library-change": ((Library,), "_write"),
    "library-upload": ((Library,), "take_upload"),
    "library-evict": ((Library,), "evict"),
    "library-remove": ((Library,), "remove"),
    "library-hold": ((Library,), "hold"),
}
#: Those that a daemon with an embedded pool comes to.
POINTS: Final[_Points] = _ON_ANY_POOL | {
    "receive-piece": ((FilesystemReceiver, VolumeReceiver), "take"),
    "receive-checkpoint": ((receive,), "write_checkpoint"),
    "receive-note": ((receive,), "write_image"),
    "unpack-copy": ((unpack,), "copy_tree"),
    "unpack-layer": ((unpack,), "unpack_layer"),
    "unpack-note": ((unpack,), "write_image"),
    "publish-completed": ((EmbeddedPool,), "_completed"),
    "set-aside": ((pool, receive), "set_aside"),
    "empty-trash": ((pool, receive), "empty_trash"),
    "hold-write": ((pool,), "write_holds"),
}
#: Those that a daemon with a ZFS pool comes to.
ON_ZFS: Final[_Points] = _ON_ANY_POOL | {
    "zfs-receive": ((Lzc,), "receive"),
    "zfs-rename": ((Lzc,), "rename"),
    "zfs-change": ((Lzc,), "change"),
    "zfs-hold": ((Lzc,), "hold"),
    "zfs-release": ((Lzc,), "release"),
}

#: Those of an import by a delta, which is the operation `upgrade`.
BY_DELTA: Final = tuple(name for name in _ON_ANY_POOL if name.startswith("delta-"))
_KEEPS: Final = ("library-keep", "library-add", "library-evict", "library-remove")
#: The points that operations of clients come to, by the names of these.
REACHED: Final[dict[str, tuple[str, ...]]] = {
    "import": (
        "spool-write", "spool-size", "spool-drop", "journal-begin", "journal-end", "journal-spool",
        "journal-range", "journal-forget", "receive", "receive-piece", "receive-checkpoint", "receive-note",
        "manifest-mark", "manifest-write", "manifest-unmark", "receipt-write", "publish", "publish-completed",
        "view-add", "unpack", "unpack-copy", "unpack-layer", "unpack-note", "zfs-receive", "zfs-rename",
        *_KEEPS,
    ),
    "upgrade": BY_DELTA,
    "leave": ("journal-begin", "journal-park", "abandon", "zfs-change"),
    "delete": (
        "manifest-mark", "manifest-forget", "manifest-unmark", "receipt-forget", "destroy", "set-aside",
        "empty-trash", "view-remove", "zfs-change",
    ),
    "hold": ("hold", "hold-write", "zfs-hold"),
    "release": ("release", "hold-write", "zfs-release"),
    "publish": ("library-add", "library-upload", "library-change"),
    "unpublish": ("library-remove",),
    "mirror": ("library-hold", *_KEEPS),
}  # fmt: skip

#: Calls of the system that change a file system, counted together as the point `syscall`; with the changes of
#: a ZFS pool, each of which is a call of the kernel, too.
CALLS: Final = (
    "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "fsync", "ftruncate", "pwrite",
    "pwritev", "utime", "chmod", "fchmod",
)  # fmt: skip
SYSCALL: Final = "syscall"

_FORM: Final = struct.Struct("@Q40sQ")
#: After it: how many times the daemon has come to the point of this turn.
_PASSED: Final = struct.Struct("@QQ")


class Armed:
    """The memory that tells a daemon where to die; `path` is of a file, which is made."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        self.path = path
        self._memory = _mapped(path)
        self._turn = 0

    def at(self, point: str, count: int = 1) -> None:
        """Dies at a point, `before:NAME` or `after:NAME`, the so-many-th time; "" is nowhere."""
        self._turn += 1
        _FORM.pack_into(self._memory, 0, self._turn, point.encode(), count)

    def passed(self) -> int:
        """How many times a daemon has come to the point since the last call of `at`."""
        turn, passed = _PASSED.unpack_from(self._memory, _FORM.size)
        return passed if turn == self._turn else 0

    def close(self) -> None:
        self._memory.close()


_memory: mmap.mmap | None = None
_lock = threading.Lock()
_turn = 0
_passed = 0


def listen(path: Path) -> None:
    """From now on this process dies where the memory says."""
    global _memory
    _memory = _mapped(path)


def install() -> None:
    """Puts the points in their places. Nothing dies before `listen`."""
    assert notes.write_holds is pool.write_holds
    for name, (owners, attribute) in (POINTS | ON_ZFS).items():
        for owner in owners:
            setattr(owner, attribute, _watched(getattr(owner, attribute), name))
    for attribute in ("receive", "create", "snapshot", "rename", "change", "hold", "release"):
        setattr(Lzc, attribute, _watched(getattr(Lzc, attribute), SYSCALL))
    for call in CALLS:
        setattr(os, call, _watched(getattr(os, call), SYSCALL))


def _mapped(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)


def _reach(point: str) -> None:
    global _turn, _passed
    if _memory is None:
        return
    turn, at, count = _FORM.unpack_from(_memory, 0)
    if at.rstrip(b"\0").decode() != point:
        return
    with _lock:
        if turn != _turn:
            _turn, _passed = turn, 0
        _passed += 1
        _PASSED.pack_into(_memory, _FORM.size, turn, _passed)
        if _passed == count:
            os.kill(os.getpid(), signal.SIGKILL)


def _watched(step: Callable[..., Any], name: str) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        _reach(f"before:{name}")
        result = step(*arguments, **named)
        _reach(f"after:{name}")
        return result

    async def wrapped_async(*arguments: Any, **named: Any) -> Any:
        _reach(f"before:{name}")
        result = await step(*arguments, **named)
        _reach(f"after:{name}")
        return result

    return wrapped_async if inspect.iscoroutinefunction(step) else wrapped
