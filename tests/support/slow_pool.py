"""An embedded pool whose disks are slow; and imgstored with one.

`python -m tests.support.slow_pool [imgstored's arguments]`
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from imgstored import app
from imgstored.__main__ import main
from imgstored.pools.base import BOUNDLESS
from imgstored.pools.embedded import EmbeddedPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Blocks, PoolImage, Room

#: Seconds for each piece of a stream, which has 1 MiB at most.
PAUSE = 0.3


class SlowPool(EmbeddedPool):
    """Takes its time over each piece."""

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        def slowly() -> Iterator[bytes | bytearray | memoryview]:
            for block in blocks:
                time.sleep(PAUSE)
                yield block

        return super().receive(uuid, slowly(), origin=origin, room=room)


if __name__ == "__main__":
    app.EmbeddedPool = SlowPool  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
