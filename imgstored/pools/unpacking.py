"""The unpacking of a layer into a folder, for all pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.layers.entries import entries
from imgstored.layers.tree import Applied, apply

if TYPE_CHECKING:
    from imgstored.pools.base import Blocks, Room
    from imgstored.zstream.fletcher4 import Buffer


def unpack_layer(blocks: Blocks, root: int, room: Room) -> Applied:
    """Applies all of an uncompressed layer to the tree of which the folder `root` is the root.

    Devices are left out. Raises `LayerError`, `NoSpaceError`, `OSError`, and what `blocks` raises.
    """
    layer = _Layer(blocks)
    taken = _Taken(room)
    try:
        applied = apply(entries(layer), root, take=taken.take, devices=False)
    finally:
        taken.spent()
    layer.drain()
    return applied


class _Layer:
    """The pieces of a layer as a file that is read from front to back."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises what the pieces raise."""
        while not self._rest:
            block: Buffer | None = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = memoryview(block).cast("B")
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return piece

    def drain(self) -> None:
        """Takes what follows the end of the archive, so that all of the file is hashed."""
        self._rest = memoryview(b"")
        for _ in self._blocks:
            pass


class _Taken:
    """Room for bytes that are written one after another."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def take(self, size: int) -> None:
        """Bytes are about to be written, and those before are."""
        self.spent()
        self._room.take(size)
        self._size = size

    def spent(self) -> None:
        """All bytes are written, or will not be."""
        size, self._size = self._size, 0
        self._room.spent(size)
