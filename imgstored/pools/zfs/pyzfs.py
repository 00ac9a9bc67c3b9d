"""libzfs_core by OpenZFS's own Python binding, pyzfs, if the host has it.

It comes with the system's OpenZFS (Debian: python3-pyzfs), not from PyPI, whose pyzfs is of 2016. So it is
looked for when the first pool is opened.
"""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgstored.zstream.nvlist import Tree

_MODULE: Final = "libzfs_core"
#: The folder of Debian's pyzfs, which a venv does not search.
_SYSTEM_FOLDER: Final = Path("/usr/lib/python3/dist-packages")

#: What is called of it. Never `lzc_receive`: illumos has two of its arguments the other way round, so that
#: there "force" would be "raw". `lzc_receive_resumable` is the same on both.
_CALLS: Final = (
    "lzc_channel_program",
    "lzc_channel_program_nosync",
    "lzc_clone",
    "lzc_create",
    "lzc_destroy_snaps",
    "lzc_get_holds",
    "lzc_hold",
    "lzc_receive_resumable",
    "lzc_release",
    "lzc_rename",
    "lzc_rollback_to",
    "lzc_send",
    "lzc_snapshot",
)

_importing = threading.Lock()


class Pyzfs:
    """The module `libzfs_core`. See `imgstored.pools.zfs.core.Core`."""

    def __init__(self) -> None:
        """Loads it, and the C library.

        Raises ModuleNotFoundError, whose `name` is "libzfs_core", where a host has none; and whatever that
        module fails with.
        """
        with _importing:
            self._module = _imported()
        try:
            # cffi looks for the library, and for each function in it, when that is asked for.
            lacking = [name for name in _CALLS if not self._module.is_supported(getattr(self._module, name))]
        except self._module.exceptions.ZFSInitializationFailed:
            return  # the library is there, and reports at each call that the kernel's side is not
        if lacking:
            raise ImportError(f"pyzfs has no {', '.join(lacking)}")

    @property
    def name(self) -> str:
        """The version of the Python package."""
        return "pyzfs"

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The base class of all of pyzfs's exceptions."""
        return (self._module.exceptions.ZFSError,)

    def channel_program(
        self,
        pool: bytes,
        program: bytes,
        arguments: dict[bytes, Tree],
        *,
        sync: bool,
        instructions: int,
        memory: int,
    ) -> Tree:
        """See `Core`."""
        run = self._module.lzc_channel_program if sync else self._module.lzc_channel_program_nosync
        answer: Tree = run(pool, program, instructions, memory, arguments)
        return answer

    def receive_resumable(
        self, snapshot: bytes, fd: int, origin: bytes | None, properties: Mapping[bytes, int | bytes]
    ) -> None:
        """See `Core`."""
        self._module.lzc_receive_resumable(snapshot, fd, origin=origin, props=dict(properties))

    def send(self, snapshot: bytes, origin: bytes | None, fd: int) -> None:
        """See `Core`."""
        self._module.lzc_send(snapshot, origin, fd, ["large_blocks"])

    def create(self, filesystem: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """See `Core`."""
        self._module.lzc_create(filesystem, "zfs", dict(properties))

    def clone(self, filesystem: bytes, origin: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """See `Core`."""
        self._module.lzc_clone(filesystem, origin, dict(properties))

    def snapshot(self, snapshots: Sequence[bytes], properties: Mapping[bytes, bytes]) -> None:
        """See `Core`."""
        self._module.lzc_snapshot(list(snapshots), dict(properties))

    def destroy_snapshots(self, snapshots: Sequence[bytes]) -> None:
        """See `Core`."""
        self._module.lzc_destroy_snaps(list(snapshots), False)

    def rollback_to(self, dataset: bytes, snapshot: bytes) -> None:
        """See `Core`."""
        self._module.lzc_rollback_to(dataset, snapshot)

    def rename(self, source: bytes, target: bytes) -> None:
        """See `Core`."""
        self._module.lzc_rename(source, target)

    def hold(self, snapshot: bytes, tag: bytes) -> bool:
        """See `Core`."""
        return not self._module.lzc_hold({snapshot: tag})

    def release(self, snapshot: bytes, tag: bytes) -> None:
        """See `Core`."""
        self._module.lzc_release({snapshot: [tag]})

    def holds(self, snapshot: bytes) -> Iterable[bytes]:
        """See `Core`."""
        tags: dict[bytes, int] = self._module.lzc_get_holds(snapshot)
        return tags


def _imported() -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE or not (_SYSTEM_FOLDER / _MODULE).is_dir():
            raise
    # Last on the path, and only for this import, so that no other package comes from there.
    sys.path.append(str(_SYSTEM_FOLDER))
    try:
        return importlib.import_module(_MODULE)
    finally:
        sys.path.remove(str(_SYSTEM_FOLDER))
