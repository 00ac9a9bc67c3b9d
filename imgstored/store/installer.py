"""How one layer gets from its source into its pool, and what is left behind when it does not.

    its bytes arrive in the pool's partial ──► manifest ──► pool.publish

`publish` is the moment when the image comes to be. From before the first byte goes into the pool until then,
the layer has imgadm's lock of the image; each has only its own, and takes it when its origin is in. What is
kept when a layer ends otherwise:

| it ended because                        | pool's partial | spool and journal             |
| --------------------------------------- | -------------- | ----------------------------- |
| the daemon is stopping, or was killed   | kept           | kept: goes on after restart   |
| nobody wanted it, or a server failed    | dropped        | kept: serves the next try     |
| the bytes are wrong, or there is no room| dropped        | dropped                       |
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import shortage
from imgstored.catalog.catalog import InstalledImage
from imgstored.catalog.receipts import receipt_of
from imgstored.errors import ImgstoreError, InternalError, NoSpaceError, PoolError
from imgstored.store.arrival import WRONG_BYTES, Arrivals, NotReceivedError, OriginFailedError, Way
from imgstored.store.events import AlreadyInstalled, InstalledMeanwhile, Note, WaitingForLock
from imgstored.store.leftovers import Leftovers
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.download import DownloadLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog, View
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.receipts import Receipts
    from imgstored.http.location import Location
    from imgstored.pools.base import PoolImage
    from imgstored.store.journal import Journal, JournalledImport
    from imgstored.store.layer import Layer
    from imgstored.store.room import Room

log = structlog.get_logger(__name__)

#: After these nothing that came is worth keeping.
_SPOILED = (*WRONG_BYTES, NoSpaceError)

_BUG_HINT = "the daemon's log has the details; please report it"


@dataclass(frozen=True, slots=True)
class FromSources:
    """The bytes come over the network, from any of `locations`. The rest says how to find them again."""

    locations: tuple[Location, ...]
    sources: tuple[str, ...] | None
    channel: str | None
    zstream: bool = False


@dataclass(frozen=True, slots=True)
class FromFile:
    """The bytes are in a file that a client has opened; the installer closes `fd`. `path` is for messages."""

    fd: int
    path: str


@dataclass(frozen=True, slots=True)
class InstallLimits:
    """Bounds on what is installed at the same time, and on what one image may take. Sizes in bytes."""

    imports: int = 4
    min_free: int = 64 << 20
    keep_partial_seconds: float = 7 * 86400.0
    download: DownloadLimits = field(default_factory=DownloadLimits)
    decompress: DecompressLimits = field(default_factory=DecompressLimits)


class _InstalledByOthersError(NotReceivedError):
    """Somebody else has installed the image. `waited` is whether that was waited for."""

    def __init__(self, image: PoolImage, *, waited: bool) -> None:
        super().__init__(image.uuid)
        self.image = image
        self.waited = waited


class Installer:
    """Does the work of the layers. Everything that blocks runs in threads of bounded number."""

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        spool_folder: Path,
        view: View,
        locks: ImageLocks,
        limits: InstallLimits,
        *,
        receipts: Receipts | None = None,
    ) -> None:
        self._catalog = catalog
        self._receipts = receipts
        self._journal = journal
        self._view = view
        self.locks = locks
        self._leftovers = Leftovers(catalog, journal, spool_folder, locks)
        self._arrivals = Arrivals(journal, spool_folder, limits)
        self._limits = limits

    def reconfigure(self, limits: InstallLimits) -> None:
        """Takes new limits for what begins from now on."""
        self._limits = limits
        self._arrivals.reconfigure(limits)

    @property
    def room(self) -> Room:
        """Where there must be room for an import."""
        return self._arrivals.room

    # -- one layer -------------------------------------------------------------------------------------------

    async def install(
        self, layer: Layer, bytes_from: FromSources | FromFile, *, stopping: Callable[[], bool]
    ) -> ImgstoreError | None:
        """Installs the layer's image; returns what kept it from that.

        Cancelling it leaves what the table says.
        """
        log.info("installing", uuid=layer.uuid, pool=layer.pool, source=layer.source)
        _warn_of_oddities(layer, told=isinstance(bytes_from, FromFile))
        ended = False
        async with AsyncExitStack() as lock:
            try:
                error = await self._install(layer, bytes_from, lock)
                ended = True
            finally:
                # Cancelled: alone, or in a group with others of its kind.
                if not ended and not stopping():
                    await self._clean_up(self._leftovers.drop_partial, layer)
                if isinstance(bytes_from, FromFile):
                    os.close(bytes_from.fd)
        return error

    async def _install(
        self, layer: Layer, bytes_from: FromSources | FromFile, lock: AsyncExitStack
    ) -> ImgstoreError | None:
        way = Way(
            self._catalog.pool(layer.pool),
            clear=partial(self._lock, layer, lock),
            drop_bytes=partial(self._clean_up, self._leftovers.drop_bytes, layer),
        )
        try:
            if isinstance(bytes_from, FromFile):
                await self._arrivals.from_file(layer, bytes_from, way)
            else:
                await self._arrivals.from_sources(layer, bytes_from, way)
            layer.phase = "installing"
            with layer.stages.publishing, trio.CancelScope(shield=True):
                await self._commit(layer)
        except OriginFailedError as below:
            await self._clean_up(self._leftovers.drop_partial, layer)
            return below.error
        except _InstalledByOthersError as there:
            with trio.CancelScope(shield=True):
                await self._take_over(layer, there, from_file=isinstance(bytes_from, FromFile))
        except ImgstoreError as error:
            spoiled = isinstance(error, _SPOILED) or isinstance(bytes_from, FromFile) or not layer.done()
            log.warning(
                "not installed", uuid=layer.uuid, error=error.message, code=error.code, dropped=spoiled
            )
            await self._clean_up(self._leftovers.drop_all if spoiled else self._leftovers.drop_partial, layer)
            return error
        except Exception:
            # One import must not take the daemon with it.
            log.exception("an import failed by a mistake", uuid=layer.uuid)
            await self._clean_up(self._leftovers.drop_partial, layer)
            return InternalError(
                f'the import of image "{layer.uuid}" failed by a mistake in imgstored', hint=_BUG_HINT
            )
        log.info("installed", uuid=layer.uuid, pool=layer.pool)
        return None

    async def _lock(self, layer: Layer, until: AsyncExitStack) -> None:
        """Takes the image's lock for as long as `until` lasts; raises if somebody else has installed it."""
        if layer.locked:
            return  # by an attempt before

        def told() -> None:
            log.info("waiting for an image's lock", uuid=layer.uuid, pool=layer.pool)
            layer.emit(WaitingForLock(layer.uuid))

        waited = await until.enter_async_context(self.locks.held(layer.uuid, told))
        layer.locked = True
        image = await trio.to_thread.run_sync(self._catalog.pool(layer.pool).image, layer.uuid)
        if image is not None:
            raise _InstalledByOthersError(image, waited=waited)

    async def _take_over(self, layer: Layer, there: _InstalledByOthersError, *, from_file: bool) -> None:
        """The image is there, and somebody else's; ours is not needed."""
        image = await trio.to_thread.run_sync(self._catalog.with_manifest, layer.pool, there.image)
        self._catalog.add(image)
        await self._show(image)
        await self._clean_up(self._leftovers.drop_all, layer)
        name, version = layer.manifest.name, layer.manifest.version
        layer.told = True
        if there.waited:
            layer.emit(InstalledMeanwhile(layer.uuid, name, version, from_file))
        else:
            layer.emit(AlreadyInstalled(layer.uuid, name, version))

    async def _commit(self, layer: Layer) -> None:
        """The manifest, and then the image: the moment when it comes to be for every reader."""
        image = await trio.to_thread.run_sync(self._publish, layer)
        self._catalog.add(image)
        await self._show(image)
        await trio.to_thread.run_sync(self._leftovers.forget, layer.pool, layer.uuid)

    def _publish(self, layer: Layer) -> InstalledImage:
        manifest = layer.manifest.document
        try:
            self._catalog.write_manifest(layer.pool, layer.uuid, manifest, layer.source)
            self._write_receipt(layer)
        except OSError as error:
            raise PoolError(
                f"the manifest of image {layer.uuid} cannot be written: {shortage.why(error)}",
                hint="look at the file system of imgadm's folder",
            ) from error
        image = self._catalog.pool(layer.pool).publish(layer.uuid)
        self._catalog.keep_manifest(layer.pool, layer.uuid)
        return InstalledImage(layer.pool, image, manifest, layer.source)

    def _write_receipt(self, layer: Layer) -> None:
        image = layer.arrived
        if self._receipts is not None and image is not None:
            origin = None if image.origin is None else self._catalog.pool(layer.pool).image(image.origin)
            receipt = receipt_of(image, layer.received(), None if origin is None else origin.guid)
            self._receipts.write(layer.pool, layer.uuid, receipt)

    async def _show(self, image: InstalledImage) -> None:
        try:
            await self._view.add(image)
        except ImgstoreError as error:
            # It is installed all the same, and list and get say so.
            log.error("an image cannot be shown in the view", uuid=image.uuid, error=error.message)

    async def _clean_up(self, drop: Callable[..., None], layer: Layer) -> None:
        """What is left behind, whatever else happens."""
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(partial(drop, layer.pool, layer.uuid, locked=layer.locked))
            except Exception:
                # The import's own error says more; what stays is swept up by the next start.
                log.exception("what an import left cannot be removed", uuid=layer.uuid)

    # -- after a restart -------------------------------------------------------------------------------------

    async def unfinished(self) -> list[JournalledImport]:
        """Sweeps up what an earlier daemon left, and returns the imports that go on."""
        return await trio.to_thread.run_sync(self._leftovers.sweep, self._limits.keep_partial_seconds)

    def is_unfinished(self, pool: str, uuid: str) -> bool:
        """Whether the import is still wanted though nobody is there to ask for it."""
        return any(
            (each.pool, each.uuid, each.wanted) == (pool, uuid, True) for each in self._journal.imports()
        )

    # -- deleting --------------------------------------------------------------------------------------------

    async def remove(self, image: InstalledImage) -> None:
        """Removes an installed image, for every reader. For who has its lock. Raises what the pool raises."""
        await trio.to_thread.run_sync(self._destroy, image)
        self._catalog.remove(image.pool, image.uuid)
        await self._view.remove(image)
        await trio.to_thread.run_sync(self._catalog.forget_manifest, image.pool, image.uuid)
        if self._receipts is not None:
            await trio.to_thread.run_sync(self._receipts.forget, image.pool, image.uuid)
        log.info("deleted", uuid=image.uuid, pool=image.pool)

    def _destroy(self, image: InstalledImage) -> None:
        self._catalog.doubt(image.pool, image.uuid)
        try:
            self._catalog.pool(image.pool).destroy(image.uuid)
        except ImgstoreError:
            self._catalog.settle(image.pool, image.uuid)
            raise


def _warn_of_oddities(layer: Layer, *, told: bool) -> None:
    """Says once what in the manifest is taken though imgadm's own validation refuses it."""
    if not layer.manifest.odd:
        return
    odd = ", ".join(layer.manifest.odd)
    log.warning("a manifest is odd, and is kept as it is", uuid=layer.uuid, pool=layer.pool, odd=odd)
    if told:
        layer.emit(Note(f"the manifest is odd, and is kept as it is: {odd}"))
