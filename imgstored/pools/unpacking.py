"""The unpacking of a layer into a folder, for all pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from imgstored.layers.entries import PieceReader, entries
from imgstored.layers.tree import apply

if TYPE_CHECKING:
    from imgstored.pools.base import Blocks, Room

log = structlog.get_logger(__name__)


def unpack_layer(uuid: str, blocks: Blocks, root: int, room: Room) -> None:
    """Applies all of an image's uncompressed layer to the tree of which the folder `root` is the root.

    Devices are left out, and attributes that a file cannot have here; the log says so. Raises `LayerError`,
    `NoSpaceError`, `OSError`, and what `blocks` raises.
    """
    layer = PieceReader(blocks)
    taken = _Taken(room)
    try:
        applied = apply(entries(layer), root, take=taken.take, devices=False)
    finally:
        taken.spent()
    layer.drain()
    if applied.devices or applied.attributes:
        log.info(
            "left out what an image of this host cannot have",
            uuid=uuid,
            devices=applied.devices,
            attributes=applied.attributes,
        )


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
