"""An embedded pool that others change, too, as they do a ZFS pool; and imgstored with one.

`python -m tests.support.shared_pool [imgstored's arguments]`
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgstored import app
from imgstored.__main__ import main
from imgstored.manifest.values import UUID
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.embedded.contents import scan_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.pools.base import PoolImage


class SharedPool(EmbeddedPool):
    """Looks into its folder whenever it is asked: a folder UUID that was moved in or out counts."""

    @property
    def shared(self) -> bool:
        return True

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        self._look()
        return super().images(known)

    def image(self, uuid: str) -> PoolImage | None:
        self._look()
        return super().image(uuid)

    def _look(self) -> None:
        with self._lock:
            there = {name for name in self._root.names() if UUID.fullmatch(name)}
            for uuid in self._images.keys() - there:
                del self._images[uuid]
            for uuid in there - self._images.keys():
                installed = scan_image(self._root, self.name, uuid)
                if installed is not None:
                    self._images[uuid] = installed


if __name__ == "__main__":
    app.EmbeddedPool = SharedPool  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
