"""An embedded pool that others change, too, as they do a ZFS pool; and imgstored with one.

`python -m tests.support.shared_pool [imgstored's arguments]`
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from imgstored import app
from imgstored.__main__ import main
from imgstored.pools.embedded import EmbeddedPool

if TYPE_CHECKING:
    from imgstored.pools.base import PoolImage

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SharedPool(EmbeddedPool):
    """Looks into its folder whenever it is asked: a folder UUID that was moved in or out counts."""

    @property
    def shared(self) -> bool:
        return True

    def images(self) -> list[PoolImage]:
        self._look()
        return super().images()

    def image(self, uuid: str) -> PoolImage | None:
        self._look()
        return super().image(uuid)

    def _look(self) -> None:
        with self._lock:
            there = {name for name in self._root.names() if _UUID.fullmatch(name)}
            for uuid in self._images.keys() - there:
                del self._images[uuid]
            for uuid in there - self._images.keys():
                self._scan_image(uuid)


if __name__ == "__main__":
    app.EmbeddedPool = SharedPool  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
