"""Deletes images: one deletion of an image at a time, and none of an image that is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import CancelledError, ImageHasDependentClonesError, ImgstoreError
from imgstored.events.stream import Action, Ended, EventStream, Started, outcome_of
from imgstored.host import shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgstored.catalog.catalog import Catalog, InstalledImage, Key, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.manifest_files import Stamp
    from imgstored.catalog.receipts import Receipts
    from imgstored.events.stream import Requester

log = structlog.get_logger(__name__)


class Deletions:
    """The deletions under way. For trio's thread only."""

    def __init__(
        self,
        catalog: Catalog,
        locks: ImageLocks,
        view: View,
        events: EventStream,
        *,
        receipts: Receipts | None = None,
    ) -> None:
        self._catalog = catalog
        self._locks = locks
        self._view = view
        self._events = events
        self._receipts = receipts
        self._under_way: dict[Key, trio.Event] = {}

    def under_way(self, key: Key) -> bool:
        """Whether the image is being deleted."""
        return key in self._under_way

    async def wait_for(self, key: Key) -> None:
        """Waits for a deletion under way."""
        while (deletion := self._under_way.get(key)) is not None:
            await deletion.wait()

    async def delete(
        self, pool: str, uuid: str, requester: Requester, expecting: Callable[[str, str], Sequence[str]]
    ) -> None:
        """Removes an installed image. Refused while anything is cloned from it, or about to be.

        `expecting` names what is about to be cloned from an image (pool, uuid). Waits while somebody else has
        the image's lock, such as an imgadm that imports it. Raises what the pool raises.
        """
        key = (pool, uuid)
        await self.wait_for(key)
        self._catalog.get(pool, uuid)
        async with self._locks.held(uuid):
            # From here until the event is there nothing is awaited.
            image = self._catalog.get(pool, uuid)
            dependents = [*expecting(pool, uuid)]
            if dependents:
                raise ImageHasDependentClonesError(
                    f'image "{uuid}" has dependent clones: {dependents[0]}',
                    hint="an import of one of its clones is under way",
                    data={"dependents": dependents},
                )
            done = self._under_way[key] = trio.Event()
            try:
                with trio.CancelScope(shield=True):
                    await self._delete(image, requester)
            finally:
                del self._under_way[key]
                done.set()

    async def _delete(self, image: InstalledImage, requester: Requester) -> None:
        """Removes the image, with its start and its end written down before and after."""
        action = Action("delete", image.uuid, image.text("name"), image.text("version"), image.pool)
        self._events.publish(Started(action, requester))
        await self._events.flush()
        error: ImgstoreError | None = CancelledError("it was interrupted")
        try:
            await self._remove(image)
            error = None
        except ImgstoreError as raised:
            error = raised
            raise
        finally:
            self._events.publish(Ended(action, outcome_of(error, "deleted"), error))
            await self._events.flush()

    async def _remove(self, image: InstalledImage) -> None:
        pending = await trio.to_thread.run_sync(self._destroy, image)
        self._catalog.remove(image.pool, image.uuid)
        await self._view.remove(image)
        await trio.to_thread.run_sync(self._forget, image, pending)
        log.info("deleted", uuid=image.uuid, pool=image.pool)

    def _destroy(self, image: InstalledImage) -> Stamp | None:
        """Destroys the image's dataset; returns the stamp of the manifest that goes with it. Blocks."""
        pending = self._catalog.mark_pending(image.pool, image.uuid)
        try:
            self._catalog.pool(image.pool).destroy(image.uuid)
        except ImgstoreError:
            self._catalog.reconcile(image.pool, image.uuid)
            raise
        return pending

    def _forget(self, image: InstalledImage, pending: Stamp | None) -> None:
        """Removes the manifest and the receipt of an image that is gone. Blocks."""
        try:
            self._catalog.forget_manifest(image.pool, image.uuid, pending)
            if self._receipts is not None:
                self._receipts.forget(image.pool, image.uuid)
        except OSError as error:
            # The image is deleted all the same. The next start finds the manifest's mark, and tidies up.
            log.warning(
                "files of a deleted image stay", pool=image.pool, uuid=image.uuid, error=shortage.why(error)
            )
