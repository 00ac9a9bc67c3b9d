"""The calls of libzfs_core that the store needs, with two bindings: OpenZFS's pyzfs, and our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgstored.zstream.nvlist import Tree


class CallError(Exception):
    """A failed call of the C library, for which pyzfs has classes; `faults` has its meaning."""

    def __init__(self, call: str, number: int, said: bytes | None = None) -> None:
        """`call` is the C function's name, `number` the errno, `said` the kernel's text if there is one."""
        super().__init__(f"{call} failed with errno {number}")
        self.call = call
        self.errno = number
        self.details = said


class Core(Protocol):
    """A binding. Its calls block in the kernel, without Python's lock, and may be made from several threads.

    Names have no NUL and at most 255 bytes. Each call raises one of `errors`.
    """

    @property
    def name(self) -> str:
        """The name of the binding, for people."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions that the calls raise."""

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
        """Runs a program, with `sync` in syncing context, where it may change things; returns its result."""

    def receive_resumable(
        self, snapshot: bytes, fd: int, origin: bytes | None, properties: Mapping[bytes, int | bytes]
    ) -> None:
        """Receives the stream from `fd`; keeps the received part if the stream ends early."""

    def send(self, snapshot: bytes, origin: bytes | None, fd: int) -> None:
        """Writes the snapshot's stream to `fd`, as `zfs send -L` does; or that of a dataset as it is now."""

    def create(self, filesystem: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """Makes an empty filesystem."""

    def clone(self, filesystem: bytes, origin: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """Makes a filesystem that is a clone of a snapshot."""

    def snapshot(self, snapshots: Sequence[bytes], properties: Mapping[bytes, bytes]) -> None:
        """Takes snapshots of one pool, all or none."""

    def destroy_snapshots(self, snapshots: Sequence[bytes]) -> None:
        """Destroys the snapshots that exist, all or none."""

    def rollback_to(self, dataset: bytes, snapshot: bytes) -> None:
        """Rolls a dataset back to its latest snapshot, which is this one."""

    def rename(self, source: bytes, target: bytes) -> None:
        """Renames a dataset or a snapshot."""

    def hold(self, snapshot: bytes, tag: bytes) -> bool:
        """Holds a snapshot; False if there is none."""

    def release(self, snapshot: bytes, tag: bytes) -> None:
        """Ends a hold, if there is one."""

    def holds(self, snapshot: bytes) -> Iterable[bytes]:
        """The tags that hold a snapshot."""
