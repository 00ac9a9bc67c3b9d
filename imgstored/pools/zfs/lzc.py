"""The calls of libzfs_core that the store makes, with names as str and errors as ours.

pyzfs makes them if the host has it and it works, and otherwise our own binding of the C library: a host needs
no Python package for ZFS.

All calls block in the kernel, without Python's lock, and may be made from several threads.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import PoolError
from imgstored.pools.zfs.faults import explained, is_called, library_absent, zfs_absent
from imgstored.pools.zfs.library import Library
from imgstored.pools.zfs.pyzfs import Pyzfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imgstored.pools.zfs.core import Core
    from imgstored.zstream.nvlist import Tree

#: The bindings, in the order in which they are tried.
BINDINGS: tuple[Callable[[], Core], ...] = (Pyzfs, Library)

#: The maximum of a channel program: instructions, and bytes. The kernel has the same limits.
_INSTRUCTIONS: Final = 100_000_000
_MOST: Final = 64 << 20

#: The bytes that a program gets at first, and the factor if they were too few. They are for its variables;
#: its answer gets as many again, which libzfs_core allocates for each call, and for which illumos reserves
#: swap.
_LEAST: Final = 1 << 20
_TIMES: Final = 4

#: Bytes of a dataset's name, of a snapshot's, and of a hold's tag: ZFS_MAX_DATASET_NAME_LEN without the NUL.
_LONGEST: Final = 255


class Lzc:
    """libzfs_core for one pool. Every call may raise the errors of `faults.explained`."""

    def __init__(self, pool: str) -> None:
        """Loads the library. Raises `PoolError` if it is not installed."""
        self.pool = pool
        self._core = _load(pool)
        self._needed: dict[str, int] = {}  # bytes, by program

    @property
    def binding(self) -> str:
        """The binding: `pyzfs`, or for our own the name of the library's file."""
        return self._core.name

    def ask(self, program: str, doing: str, **arguments: str | Mapping[str, str]) -> Any:
        """Runs a channel program that only reads; returns its result, with str for bytes."""
        return self._run(program, doing, arguments, sync=False)

    def change(self, program: str, doing: str, **arguments: str) -> Any:
        """Runs a channel program, whose changes are all made in one step, and are on disk on return.

        Runs it again, from its beginning, if it had too little memory: a second run finds what the first has
        changed.
        """
        return self._run(program, doing, arguments, sync=True)

    def receive(
        self,
        snapshot: str,
        fd: int,
        doing: str,
        *,
        origin: str | None,
        properties: Mapping[str, int | str],
    ) -> None:
        """Receives the stream from `fd`; keeps the received part if the stream ends early."""
        given = {_text(name): _value(value) for name, value in properties.items()}
        base = None if origin is None else self._name(origin, doing)
        with self._pool_errors(doing):
            self._core.receive_resumable(self._name(snapshot, doing), fd, base, given)

    def create(
        self, filesystem: str, doing: str, *, origin: str | None, properties: Mapping[str, int | str]
    ) -> None:
        """Makes a filesystem: an empty one, or a clone of a snapshot."""
        given = {_text(name): _value(value) for name, value in properties.items()}
        name = self._name(filesystem, doing)
        base = None if origin is None else self._name(origin, doing)
        with self._pool_errors(doing):
            if base is None:
                self._core.create(name, given)
            else:
                self._core.clone(name, base, given)

    def send(self, snapshot: str, fd: int, doing: str, *, origin: str | None) -> None:
        """Writes the snapshot's stream to `fd`; with an origin, only the differences from that.

        The name may also be that of a dataset, which must not be mounted: the stream has what is in it now.

        Blocks over 128 KiB stay whole, and the stream says so, if the dataset or its origin has had any: no
        pool may receive an incremental stream without them onto an origin with them. The kernel makes the
        stream of any other dataset as if large blocks were not allowed, so that every pool can receive it.
        """
        base = None if origin is None else self._name(origin, doing)
        with self._pool_errors(doing):
            self._core.send(self._name(snapshot, doing), base, fd)

    def snapshot(self, snapshots: Sequence[str], doing: str, properties: Mapping[str, str]) -> None:
        """Takes snapshots, all or none, with user properties."""
        given = {_text(name): _text(value) for name, value in properties.items()}
        with self._pool_errors(doing):
            self._core.snapshot([self._name(snapshot, doing) for snapshot in snapshots], given)

    def destroy_snapshot(self, snapshot: str, doing: str) -> None:
        """Destroys a snapshot, if it is there."""
        with self._pool_errors(doing):
            self._core.destroy_snapshots([self._name(snapshot, doing)])

    def roll_back(self, dataset: str, snapshot: str, doing: str) -> None:
        """Rolls a dataset back to its latest snapshot, which must be this one."""
        with self._pool_errors(doing):
            self._core.rollback_to(self._name(dataset, doing), self._name(snapshot, doing))

    def rename(self, source: str, target: str, doing: str) -> None:
        """Renames a dataset or a snapshot; it has its new name on disk on return."""
        with self._pool_errors(doing):
            self._core.rename(self._name(source, doing), self._name(target, doing))

    def hold(self, snapshot: str, tag: str, doing: str) -> bool:
        """Holds a snapshot, if it is not held by the tag already; False if there is no such snapshot."""
        with self._pool_errors(doing):
            try:
                return self._core.hold(self._name(snapshot, doing), self._name(tag, doing))
            except self._core.errors as error:
                if is_called(error, "HoldExists"):
                    return True
                raise

    def release(self, snapshot: str, tag: str, doing: str) -> None:
        """Ends a hold, if there is one."""
        with self._pool_errors(doing):
            self._core.release(self._name(snapshot, doing), self._name(tag, doing))

    def holds(self, snapshot: str, doing: str) -> list[str]:
        """The tags that hold a snapshot; none if there is no snapshot."""
        with self._pool_errors(doing):
            try:
                return sorted(_decoded(tag) for tag in self._core.holds(self._name(snapshot, doing)))
            except self._core.errors as error:
                if is_called(error, "SnapshotNotFound"):
                    return []
                raise

    def _run(
        self, program: str, doing: str, arguments: Mapping[str, str | Mapping[str, str]], *, sync: bool
    ) -> Any:
        given = {_text(name): _argument(value) for name, value in arguments.items()}
        pool, text = self._name(self.pool, doing), _text(program)
        memory = max(_LEAST, self._needed.get(program, 0))
        with self._pool_errors(doing):
            while True:
                try:
                    answer = self._core.channel_program(
                        pool, text, given, sync=sync, instructions=_INSTRUCTIONS, memory=memory
                    )
                except self._core.errors as error:
                    if memory >= _MOST or not _out_of_memory(error):
                        raise
                    memory = min(memory * _TIMES, _MOST)
                else:
                    self._needed[program] = memory
                    return _plain(answer)

    def _name(self, name: str, doing: str) -> bytes:
        """A name in a pool, or a tag, as C takes it. Raises `PoolError` if C would cut it off."""
        encoded = name.encode()
        if len(encoded) > _LONGEST or b"\0" in encoded:
            raise PoolError(
                f'pool "{self.pool}": {doing} failed: a name is too long, or has a NUL in it',
                hint=f"ZFS allows {_LONGEST} bytes",
            )
        return encoded

    @contextmanager
    def _pool_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._core.errors as error:
            if is_called(error, "ZFSInitializationFailed"):
                raise zfs_absent(self.pool, getattr(error, "errno", 0)) from error
            raise explained(error, self.pool, doing) from error


def _load(pool: str) -> Core:
    causes: list[str] = []
    for binding in BINDINGS:
        try:
            core = binding()
        except Exception as error:  # noqa: BLE001  (pyzfs may be for another Python, or be anything of that name)
            if not (isinstance(error, ModuleNotFoundError) and error.name == "libzfs_core"):
                causes.append(str(error))
        else:
            return core
    raise library_absent(pool, "; ".join(causes))


def _out_of_memory(error: Exception) -> bool:
    """True if a program's variables, or its answer, had too little memory."""
    return is_called(error, "ZCPSpaceError") or is_called(error, "ZCPMemoryError")


def _argument(value: str | Mapping[str, str]) -> Tree:
    if isinstance(value, str):
        return _text(value)
    return {_text(name): _text(each) for name, each in value.items()}


def _value(value: int | str) -> int | bytes:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> bytes:
    """A C string of any length. Raises `PoolError` for a text with a NUL, where it would end."""
    encoded = text.encode()
    if b"\0" in encoded:
        raise PoolError(f"{text!r} has a NUL in it", hint="choose another text")
    return encoded


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
