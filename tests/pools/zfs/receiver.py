"""A process that receives a stream, for tests that kill it.

usage: python -m tests.pools.zfs.receiver POOL STREAM PIECE waiting|running

It writes a dot before it gives the piece of that number to the pool; `waiting`, it then gives no more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored.pools.zfs import ZfsPool
from tests.pools.contract import BASE
from tests.support.streams import in_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    pool, stream, piece, how = sys.argv[1:]
    ZfsPool(pool).receive(BASE, blocks(Path(stream), int(piece), how))


def blocks(stream: Path, piece: int, how: str) -> Iterator[memoryview]:
    for number, block in enumerate(in_pieces(stream.read_bytes(), 100_000)):
        if number == piece:
            os.write(1, b".")
            if how == "waiting":
                time.sleep(1000)
        yield block


if __name__ == "__main__":
    main()
