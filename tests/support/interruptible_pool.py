"""An embedded pool in a system call that a signal would interrupt, as ZFS's are; and imgstored with one.

`python -m tests.support.interruptible_pool FOLDER [imgstored's arguments]`. When a receive has its first
bytes, FOLDER/inside says so, and the call lasts until something is written to the FIFO FOLDER/gate. Then
FOLDER/outcome has what poll(2) returned, and errno.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored import app
from imgstored.__main__ import main
from imgstored.pools.base import BOUNDLESS
from imgstored.pools.embedded import EmbeddedPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Blocks, PoolImage, Room

FOLDER = Path(sys.argv[1])


def interruptible() -> None:
    """Waits as one that does not begin anew, as Python's own calls do."""
    libc = ctypes.CDLL(None, use_errno=True)
    gate = os.open(FOLDER / "gate", os.O_RDWR)  # so that it does not wait for a writer here
    request = ctypes.create_string_buffer(struct.pack("=ihh", gate, select.POLLIN, 0))
    (FOLDER / "inside").touch()
    returned = libc.poll(request, 1, -1)
    new = FOLDER / "outcome.new"
    new.write_text(f"{returned} {ctypes.get_errno() if returned < 0 else 0}")
    new.rename(FOLDER / "outcome")


class InterruptiblePool(EmbeddedPool):
    """Is in the kernel for as long as the test wants."""

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        def held_up() -> Iterator[bytes | bytearray | memoryview]:
            for number, block in enumerate(blocks):
                if not number:
                    interruptible()
                yield block

        return super().receive(uuid, held_up(), origin=origin, room=room)


if __name__ == "__main__":
    app.EmbeddedPool = InterruptiblePool  # type: ignore[misc]
    sys.exit(main(sys.argv[2:]))
