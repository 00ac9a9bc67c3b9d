"""Deletes images: one deletion of an image at a time, and none while something needs the image."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import lanes
from imgstored.errors import (
    CancelledError,
    ImageHasDependentClonesError,
    ImgstoreError,
    InternalError,
    StoppingError,
)
from imgstored.events.stream import Action, Ended, EventStream, Started, outcome_of
from imgstored.host import shortage
from imgstored.pools import timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgstored.catalog.catalog import Catalog, InstalledImage, Key, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.manifest_files import Stamp
    from imgstored.catalog.receipts import Receipts
    from imgstored.events.stream import Requester

log = structlog.get_logger(__name__)


class _Deletion:
    """A deletion under way."""

    def __init__(self) -> None:
        self.error: ImgstoreError | None = None
        self._ended = trio.Event()

    def end(self, error: ImgstoreError | None) -> None:
        """Wakes whoever waits for the end."""
        self.error = error
        self._ended.set()

    async def wait(self, pool: str) -> None:
        """Waits for the end. Raises `PoolError` if the pool does not answer: then the deletion goes on."""
        with trio.move_on_after(timeout.CHANGE_TIMEOUT):
            await self._ended.wait()
        if not self._ended.is_set():
            raise timeout.no_answer(pool, "the deletion goes on when it answers")


class Deletions:
    """The deletions under way. `run` must be running for one to be started. For trio's thread only.

    A deletion goes on to its end, even if its client has left or has waited long enough.
    """

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
        self._under_way: dict[Key, _Deletion] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries deletions out until it is cancelled, and then those that have begun to their end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def under_way(self, key: Key) -> bool:
        """True if the image is being deleted."""
        return key in self._under_way

    async def wait_for(self, key: Key) -> None:
        """Waits for a deletion under way. Raises `PoolError` if the pool does not answer."""
        while (deletion := self._under_way.get(key)) is not None:
            await deletion.wait(key[0])

    async def delete(
        self, pool: str, uuid: str, requester: Requester, expecting: Callable[[str, str], Sequence[str]]
    ) -> None:
        """Removes an installed image. Refused while the image has clones, or is about to have one.

        `expecting` names the datasets that are about to be cloned from an image (pool, uuid). Waits while
        another program has the image's lock, such as an imgadm that imports the image. Raises what the pool
        raises, and `PoolError` if the pool does not answer: then the deletion goes on without the client.
        """
        key = (pool, uuid)
        await self.wait_for(key)
        self._catalog.get(pool, uuid)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._locks.held(uuid))
            # There is no await from here until the deletion is in the table.
            image = self._catalog.get(pool, uuid)
            dependents = [*expecting(pool, uuid)]
            if dependents:
                raise ImageHasDependentClonesError(
                    f'image "{uuid}" has dependent clones: {dependents[0]}',
                    hint="an import of one of its clones is under way",
                    data={"dependents": dependents},
                )
            if self._nursery is None:
                raise StoppingError
            deletion = self._under_way[key] = _Deletion()
            self._nursery.start_soon(self._carry_out, image, requester, deletion, stack.pop_all())
        await deletion.wait(pool)
        if deletion.error is not None:
            raise deletion.error

    async def _carry_out(
        self, image: InstalledImage, requester: Requester, deletion: _Deletion, lock: AsyncExitStack
    ) -> None:
        """Deletes the image, and then gives its lock back."""
        with trio.CancelScope(shield=True):
            async with lock:
                error: ImgstoreError | None = None
                try:
                    await self._delete(image, requester)
                except ImgstoreError as raised:
                    error = raised
                except Exception as raised:
                    # One deletion must not take the daemon with it.
                    log.exception("a deletion failed because of a fault in imgstored", uuid=image.uuid)
                    error = InternalError.unexpected("the deletion", raised)
                del self._under_way[image.pool, image.uuid]
                deletion.end(error)

    async def _delete(self, image: InstalledImage, requester: Requester) -> None:
        """Removes the image; the events of the start and the end are on the disk before and after."""
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
        pending = await self._catalog.finish(image.pool, partial(self._destroy, image))
        self._catalog.remove(image.pool, image.uuid)
        await self._view.remove(image)
        await lanes.in_thread(self._forget, image, pending)
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
            # The manifest's mark goes last: if it is left, the next start finishes the rest.
            if self._receipts is not None:
                self._receipts.forget(image.pool, image.uuid)
            self._catalog.forget_manifest(image.pool, image.uuid, pending)
        except OSError as error:
            # The image is deleted, though. The next start finds the manifest's mark, and tidies up.
            log.warning(
                "files of a deleted image stay", pool=image.pool, uuid=image.uuid, error=shortage.why(error)
            )
