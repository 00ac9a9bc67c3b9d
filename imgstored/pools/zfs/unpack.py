"""One layer of a container image, unpacked into POOL/UUID-partial, which is a clone of the layer below it.

The files are in the folder `root` of the dataset, where imgadm puts them and the brand lx looks for them.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import NoSpaceError, PoolError
from imgstored.host import shortage
from imgstored.pools.unpacking import unpack_layer
from imgstored.pools.zfs.programs import FINAL, PARTIAL, dataset, destroy
from imgstored.pools.zfs.properties import of_kind
from imgstored.pools.zfs.system import mounted_for_writing, unmount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgstored.pools.base import Blocks, PoolImage, Room
    from imgstored.pools.zfs.lzc import Lzc

#: Where in the dataset the files of the image are.
ROOT: Final = "root"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpack(Struct, frozen=True):
    """The unpacking of one layer."""

    lzc: Lzc
    uuid: str
    origin: PoolImage | None
    properties: Mapping[str, int | str]
    room: Room

    def run(self, blocks: Blocks) -> PoolImage:
        """Unpacks all of it. Raises as `Pool.unpack` does."""
        drop_partial(self.lzc, self.uuid)
        base = None if self.origin is None else f"{self.lzc.pool}/{self.origin.uuid}{FINAL}"
        properties = of_kind(self.properties, volume=False)
        self.lzc.create(self._name, self._doing, origin=base, properties=properties)
        with (
            mounted_for_writing(self._name, self.lzc.pool) as folder,
            self._pool_errors(),
            _root(folder, new=base is None) as root,
        ):
            unpack_layer(self.uuid, blocks, root, self.room)
        self.lzc.snapshot([self._name + FINAL], self._doing, {})
        partial = dataset(self.lzc, self._name, self._doing)
        if partial is None or partial.guid is None:
            raise PoolError(
                f'pool "{self.lzc.pool}": {self._doing} failed: it was changed or destroyed meanwhile',
                hint="another program may use it; import the image again",
            )
        return partial.image(self.uuid)

    @contextmanager
    def _pool_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else "unknown cause"
            if shortage.is_full(error):
                raise NoSpaceError(
                    f'pool "{self.lzc.pool}": {self._doing} failed: there is no room left',
                    hint="`imgctl delete` an image that you no longer need, or enlarge the pool",
                ) from error
            raise PoolError(
                f'pool "{self.lzc.pool}": {self._doing} failed: {why}', hint="see `zpool status`"
            ) from error

    @property
    def _name(self) -> str:
        return f"{self.lzc.pool}/{self.uuid}{PARTIAL}"

    @property
    def _doing(self) -> str:
        return f"unpacking image {self.uuid}"


def drop_partial(lzc: Lzc, uuid: str) -> None:
    """Drops UUID-partial, if there is one; a daemon that was killed has left a layer's mounted."""
    name = f"{lzc.pool}/{uuid}{PARTIAL}"
    unmount(name, lzc.pool)
    destroy(lzc, name, f"dropping a part of image {uuid}")


@contextmanager
def _root(folder: int, *, new: bool) -> Iterator[int]:
    if new:
        os.mkdir(ROOT, 0o755, dir_fd=folder)
    fd = os.open(ROOT, _FOLDER, dir_fd=folder)
    try:
        if new:
            os.fchmod(fd, 0o755)
        yield fd
    finally:
        os.close(fd)
