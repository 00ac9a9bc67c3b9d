"""The calls of libzfs_core that the store makes, with names as str and errors as ours.

The module comes with the system's OpenZFS (Debian: python3-pyzfs), not from PyPI, whose pyzfs is of 2016.
So it is looked for when the first pool is opened. Never called here is `lzc_receive`: illumos has two of its
arguments the other way round, so that there "force" would be "raw". `lzc_receive_resumable` is the same on
both.

All calls block in the kernel, without Python's lock, and may be made from several threads.
"""

from __future__ import annotations

import importlib
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgstored.pools.zfs.faults import explained, is_called, module_absent, zfs_absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MODULE: Final = "libzfs_core"
#: Where Debian puts it, which a venv does not look into.
_SYSTEM_FOLDER: Final = Path("/usr/lib/python3/dist-packages")

#: Most that a channel program may take: instructions, and bytes. 1,000 images need a hundredth of it. The
#: bytes are also reserved for its answer, but not touched.
_INSTRUCTIONS: Final = 100_000_000
_MEMORY: Final = 64 << 20

_loading = threading.Lock()


class Lzc:
    """libzfs_core for one pool. Every call may raise what `faults.explained` makes of pyzfs's errors."""

    def __init__(self, pool: str) -> None:
        """Loads the module. Raises `PoolError` where it is not there."""
        self.pool = pool
        self._core = _load(pool)
        self._error: type[Exception] = self._core.exceptions.ZFSError

    def ask(self, program: str, doing: str, **arguments: str | Mapping[str, str]) -> Any:
        """Runs a channel program that only reads; returns what that returned, with str for bytes."""
        return self._run(self._core.lzc_channel_program_nosync, program, doing, arguments)

    def change(self, program: str, doing: str, **arguments: str) -> Any:
        """Runs a channel program whose changes are all made in one step, and are on disk on return."""
        return self._run(self._core.lzc_channel_program, program, doing, arguments)

    def receive(
        self,
        snapshot: str,
        fd: int,
        doing: str,
        *,
        origin: str | None,
        properties: Mapping[str, int | str],
    ) -> None:
        """Receives the stream that comes from `fd`, and keeps what came if it ends early."""
        given = {name.encode(): _encoded(value) for name, value in properties.items()}
        with self._told(doing):
            self._core.lzc_receive_resumable(
                snapshot.encode(), fd, origin=None if origin is None else origin.encode(), props=given
            )

    def send(self, snapshot: str, fd: int, doing: str, *, origin: str | None) -> None:
        """Writes the snapshot's stream to `fd`; with an origin, what differs from that."""
        with self._told(doing):
            self._core.lzc_send(snapshot.encode(), None if origin is None else origin.encode(), fd)

    def send_large(self, snapshot: str, fd: int, doing: str) -> None:
        """As `send`, of all of the snapshot, and with large blocks if its dataset has had any."""
        with self._told(doing):
            self._core.lzc_send(snapshot.encode(), None, fd, ["large_blocks"])

    def snapshot(self, snapshots: Sequence[str], doing: str, properties: Mapping[str, str]) -> None:
        """Takes snapshots, all or none, with user properties."""
        given = {name.encode(): value.encode() for name, value in properties.items()}
        with self._told(doing):
            self._core.lzc_snapshot([snapshot.encode() for snapshot in snapshots], given)

    def destroy_snapshot(self, snapshot: str, doing: str) -> None:
        """Destroys a snapshot, if it is there."""
        with self._told(doing):
            self._core.lzc_destroy_snaps([snapshot.encode()], False)

    def roll_back(self, dataset: str, snapshot: str, doing: str) -> None:
        """Makes a dataset what it was in its latest snapshot, which is this one."""
        with self._told(doing):
            self._core.lzc_rollback_to(dataset.encode(), snapshot.encode())

    def rename(self, source: str, target: str, doing: str) -> None:
        """Renames a dataset or a snapshot; it has its new name on disk on return."""
        with self._told(doing):
            self._core.lzc_rename(source.encode(), target.encode())

    def hold(self, snapshot: str, tag: str, doing: str) -> bool:
        """Holds a snapshot, if it is not held by the tag already; False if there is no such snapshot."""
        with self._told(doing):
            try:
                return not self._core.lzc_hold({snapshot.encode(): tag.encode()})
            except self._error as error:
                if is_called(error, "HoldExists"):
                    return True
                raise

    def release(self, snapshot: str, tag: str, doing: str) -> None:
        """Ends a hold, if there is one."""
        with self._told(doing):
            self._core.lzc_release({snapshot.encode(): [tag.encode()]})

    def holds(self, snapshot: str, doing: str) -> list[str]:
        """The tags that hold a snapshot; none where there is no snapshot."""
        with self._told(doing):
            try:
                return sorted(_decoded(tag) for tag in self._core.lzc_get_holds(snapshot.encode()))
            except self._error as error:
                if is_called(error, "SnapshotNotFound"):
                    return []
                raise

    def _run(
        self, run: Any, program: str, doing: str, arguments: Mapping[str, str | Mapping[str, str]]
    ) -> Any:
        given = {name.encode(): _argument(value) for name, value in arguments.items()}
        with self._told(doing):
            return _plain(run(self.pool.encode(), program.encode(), _INSTRUCTIONS, _MEMORY, given))

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            if is_called(error, "ZFSInitializationFailed"):
                raise zfs_absent(self.pool, getattr(error, "errno", 0)) from error
            raise explained(error, self.pool, doing) from error
        except (AttributeError, NotImplementedError, OSError) as error:
            # cffi looks for the library, and for each function in it, when it is called.
            raise module_absent(self.pool, str(error)) from error


def _load(pool: str) -> Any:
    with _loading:
        try:
            return _import()
        except ImportError as error:
            raise module_absent(pool, str(error)) from error


def _import() -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE or not (_SYSTEM_FOLDER / _MODULE).is_dir():
            raise
    # Last on the path, and only for now: nothing else is to be found there.
    sys.path.append(str(_SYSTEM_FOLDER))
    try:
        return importlib.import_module(_MODULE)
    finally:
        sys.path.remove(str(_SYSTEM_FOLDER))


def _argument(value: str | Mapping[str, str]) -> bytes | dict[bytes, bytes]:
    if isinstance(value, str):
        return value.encode()
    return {name.encode(): each.encode() for name, each in value.items()}


def _encoded(value: int | str) -> int | bytes:
    return value.encode() if isinstance(value, str) else value


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """A channel program's answer with str for bytes, in keys too."""
    match value:
        case dict():
            return {_decoded(key): _plain(each) for key, each in value.items()}
        case bytes():
            return _decoded(value)
        case _:
            return value
