"""`python -m bench.receive STREAM FOLDER`: the embedded pool alone, with a stream that is there already."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored.pools.embedded.pool import EmbeddedPool

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def main(stream: Path, folder: Path) -> None:
    """Receives the stream, verifies it, and makes it durable."""
    pool = EmbeddedPool("bench", folder)
    name = str(uuid.uuid4())
    try:
        pool.receive(name, _blocks(stream))
        pool.publish(name)
    finally:
        pool.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
