"""Deletes images: one deletion of an image at a time, and none of what is needed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from imgstored.errors import ImageHasDependentClonesError

if TYPE_CHECKING:
    from imgstored.catalog.catalog import Catalog, Key
    from imgstored.events.stream import Recorder
    from imgstored.imports.installer import Installer
    from imgstored.imports.manager import Imports


class Deletions:
    """Those under way. Touched from trio's thread only."""

    def __init__(
        self, catalog: Catalog, imports: Imports, installer: Installer, recorder: Recorder | None = None
    ) -> None:
        self._recorder = recorder
        self._catalog = catalog
        self._imports = imports
        self._installer = installer
        self._under_way: dict[Key, trio.Event] = {}

    def under_way(self, key: Key) -> bool:
        """Whether the image is being deleted."""
        return key in self._under_way

    async def settled(self, key: Key) -> None:
        """Waits for a deletion under way."""
        while (deletion := self._under_way.get(key)) is not None:
            await deletion.wait()

    async def delete(self, pool: str, uuid: str) -> None:
        """Removes an installed image. Refused while anything is cloned from it, or about to be.

        Waits while somebody else is at work on the image, as imgadm importing it.
        """
        key = (pool, uuid)
        await self.settled(key)
        self._catalog.get(pool, uuid)
        async with self._installer.locks.held(uuid):
            # From here until the event is there nothing is awaited.
            image = self._catalog.get(pool, uuid)
            expecting = self._imports.cloned_from(pool, uuid)
            if expecting:
                raise ImageHasDependentClonesError(
                    f'image "{uuid}" has dependent clones: {expecting[0]}',
                    hint="an image that is cloned from it is being imported",
                    data={"dependents": expecting},
                )
            done = self._under_way[key] = trio.Event()
            try:
                told = nullcontext() if self._recorder is None else self._recorder.deletion(image)
                with trio.CancelScope(shield=True):
                    async with told:
                        await self._installer.remove(image)
            finally:
                del self._under_way[key]
                done.set()
