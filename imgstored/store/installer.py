"""How one layer gets from its source into its pool, and what is left behind when it does not.

    download ──► spool ──► digest ──► decompress ──► pool.receive ──► manifest ──► pool.publish

`publish` is the moment when the image comes to be. What is kept when a layer ends otherwise:

| it ended because                        | pool's partial | spool and journal             |
| --------------------------------------- | -------------- | ----------------------------- |
| the daemon is stopping, or was killed   | kept           | kept: goes on after restart   |
| nobody wanted it, or a server failed    | dropped        | kept: serves the next try     |
| the bytes are wrong, or there is no room| dropped        | dropped                       |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from imgstored.errors import (
    CancelledError,
    ImgstoreError,
    InternalError,
    NoSpaceError,
    PoolError,
    StreamError,
    UncompressionError,
)
from imgstored.store.catalog import InstalledImage
from imgstored.store.events import Downloaded, Note, Resumed
from imgstored.store.leftovers import Leftovers, spool_name
from imgstored.store.local_file import LocalFile
from imgstored.store.room import Room
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.digest import Expected, WrongFileError
from imgstored.transfer.download import Download, DownloadLimits
from imgstored.transfer.mirror import ChangedError
from imgstored.transfer.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imgstored.http.location import Location, Verify
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Pool, PoolImage
    from imgstored.store.catalog import Catalog
    from imgstored.store.journal import Journal, JournalledImport
    from imgstored.store.layer import Layer

log = structlog.get_logger(__name__)

#: What came is not the image: another mirror may have it.
_WRONG_BYTES = (WrongFileError, ChangedError, UncompressionError, StreamError)

#: After these nothing that came is worth keeping.
_SPOILED = (*_WRONG_BYTES, NoSpaceError)

_BUG_HINT = "the daemon's log has the details; please report it"

#: How often one import begins anew because a mirror sent another file, before it fails.
_MAX_ATTEMPTS = 4


class View(Protocol):
    """Where installed images are shown as files."""

    async def add(self, image: InstalledImage) -> None:
        """Shows the image."""
        ...

    async def remove(self, image: InstalledImage) -> None:
        """Shows it no longer."""
        ...


@dataclass(frozen=True, slots=True)
class FromSources:
    """The bytes come over the network, from any of `locations`. The rest says how to find them again."""

    locations: tuple[Location, ...]
    sources: tuple[str, ...] | None
    channel: str | None


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


class _OriginFailedError(Exception):
    """The layer below was not installed, and so this one cannot be."""

    def __init__(self, error: ImgstoreError) -> None:
        super().__init__(error.message)
        self.error = error


class Installer:
    """Does the work of the layers. Everything that blocks runs in threads of bounded number."""

    def __init__(
        self, catalog: Catalog, journal: Journal, spool_folder: Path, view: View, limits: InstallLimits
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._spools = spool_folder
        self._view = view
        self._leftovers = Leftovers(catalog, journal, spool_folder)
        self.reconfigure(limits)

    def reconfigure(self, limits: InstallLimits) -> None:
        """Takes new limits for what begins from now on."""
        self._limits = limits
        self._room = Room(self._spools, limits.min_free)
        self._downloading = trio.CapacityLimiter(limits.imports)
        # A receive needs no download slot once its bytes are there, and must not take one from a download.
        self._receiving = trio.CapacityLimiter(2 * limits.imports)

    # -- one layer -------------------------------------------------------------------------------------------

    async def install(
        self, layer: Layer, bytes_from: FromSources | FromFile, *, stopping: Callable[[], bool]
    ) -> ImgstoreError | None:
        """Installs the layer's image; returns what kept it from that.

        Cancelling it leaves what the table says.
        """
        log.info("installing", uuid=layer.uuid, pool=layer.pool, source=layer.source)
        ended = False
        try:
            error = await self._install(layer, bytes_from)
            ended = True
        finally:
            # Cancelled: alone, or in a group with others of its kind.
            if not ended and not stopping():
                await self._clean_up(self._leftovers.drop_partial, layer)
            if isinstance(bytes_from, FromFile):
                os.close(bytes_from.fd)
        return error

    async def _install(self, layer: Layer, bytes_from: FromSources | FromFile) -> ImgstoreError | None:
        try:
            if isinstance(bytes_from, FromFile):
                await self._from_file(layer, bytes_from)
            else:
                await self._from_sources(layer, bytes_from)
            layer.phase = "installing"
            with trio.CancelScope(shield=True):
                await self._commit(layer)
        except _OriginFailedError as below:
            await self._clean_up(self._leftovers.drop_partial, layer)
            return below.error
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

    async def _from_sources(self, layer: Layer, origin: FromSources) -> None:
        """Brings the image into its pool's partial; begins anew elsewhere when what came was not it."""
        manifest, pool = layer.manifest, self._catalog.pool(layer.pool)
        await trio.to_thread.run_sync(
            self._journal.begin, layer.pool, layer.uuid, manifest.document, origin.sources, origin.channel
        )
        locations: Sequence[Location] = origin.locations
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            download = self._download(layer, locations)
            pump = self._pump(layer, download, _strictest(locations))
            try:
                await self._transfer(layer, pool, download, pump)
            except _WRONG_BYTES as error:
                locations = _worth_asking(download, error)
                if not locations or attempt == _MAX_ATTEMPTS:
                    raise
                log.warning("beginning anew", uuid=layer.uuid, error=error.message, attempt=attempt)
                layer.emit(Note(f"{error.message}; beginning anew with {locations[0].source}"))
                await self._clean_up(self._leftovers.drop_bytes, layer)
            else:
                return

    async def _from_file(self, layer: Layer, given: FromFile) -> None:
        file = LocalFile(given.fd, given.path)
        expected = _expected(layer.manifest, path=given.path)
        if expected.size is not None and file.size != expected.size:
            raise WrongFileError(
                f"image file size error: manifest says {expected.size} bytes, "
                f"{given.path} is {file.size} bytes",
                hint="the manifest belongs to another file",
            )
        pump = Pump(file.blocks, expected, self._limits.decompress, verify="first", release=file.fail)
        layer.total = file.size
        layer.done, layer.received = (lambda: pump.compressed), (lambda: pump.stream)
        layer.phase = "receiving"
        await self._receive(layer, self._catalog.pool(layer.pool), pump, at_least=file.size)

    def _download(self, layer: Layer, locations: Sequence[Location]) -> Download:
        file = layer.manifest.file
        name = spool_name(layer.pool, layer.uuid)
        download = Download(
            locations,
            size=None if file is None else file.size,
            path=self._spools / name,
            journal=self._journal.ranges(name),
            limits=self._limits.download,
            room=self._room.for_download,
            note=lambda text: layer.emit(Note(text)),
        )
        layer.done = lambda: download.done
        return download

    def _pump(self, layer: Layer, download: Download, verify: Verify) -> Pump:
        pump = Pump(
            download.blocks,
            _expected(layer.manifest),
            self._limits.decompress,
            verify=verify,
            release=download.front.fail,
        )
        layer.received = lambda: pump.stream
        return pump

    async def _transfer(self, layer: Layer, pool: Pool, download: Download, pump: Pump) -> None:
        """Downloads and receives side by side; either one's failure ends the other."""
        failures: list[ImgstoreError | _OriginFailedError] = []

        async def fetch() -> None:
            try:
                await self._fetch(layer, download)
            except ImgstoreError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            try:
                await self._receive(layer, pool, pump, at_least=download.total or 0)
            except (ImgstoreError, _OriginFailedError) as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _fetch(self, layer: Layer, download: Download) -> None:
        def opened(present: int) -> None:
            if present:
                log.info("resuming", uuid=layer.uuid, present=present, total=download.total)
                layer.emit(Resumed(layer.uuid, present, download.total))

        async with self._downloading:
            layer.phase = "downloading"
            await download.run(opened)
        layer.phase = "receiving"
        layer.emit(Downloaded(layer.uuid, download.done))

    async def _receive(self, layer: Layer, pool: Pool, pump: Pump, *, at_least: int) -> PoolImage:
        """Receives into the pool once the origin is in. On return no thread is left, whatever happened."""
        if layer.origin is not None:
            await layer.origin.finished.wait()
            if layer.origin.error is not None:
                raise _OriginFailedError(layer.origin.error)

        def receive(stream: Iterator[bytes | memoryview]) -> PoolImage:
            self._room.for_stream(pool, at_least)
            watched = self._room.watched(stream, pool)
            return pool.receive(layer.uuid, watched, origin=layer.manifest.origin)

        outcome: PoolImage | ImgstoreError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_with_us, pump)
            try:
                outcome = await trio.to_thread.run_sync(pump.run, receive, limiter=self._receiving)
            except ImgstoreError as error:
                outcome = error
            nursery.cancel_scope.cancel()
        if isinstance(outcome, ImgstoreError):
            raise outcome
        assert outcome is not None
        return outcome

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
            image = self._catalog.pool(layer.pool).publish(layer.uuid)
        except ImgstoreError:
            self._catalog.forget_manifest(layer.pool, layer.uuid)
            raise
        except OSError as error:
            raise PoolError(
                f"the manifest of image {layer.uuid} cannot be written: {error.strerror}",
                hint="look at the file system of imgadm's folder",
            ) from error
        return InstalledImage(layer.pool, image, manifest, layer.source)

    async def _show(self, image: InstalledImage) -> None:
        try:
            await self._view.add(image)
        except ImgstoreError as error:
            # It is installed all the same, and list and get say so.
            log.error("an image cannot be shown in the view", uuid=image.uuid, error=error.message)

    async def _clean_up(self, drop: Callable[[str, str], None], layer: Layer) -> None:
        """What is left behind, whatever else happens."""
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(drop, layer.pool, layer.uuid)
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
        """Removes an installed image, for every reader. Raises what the pool raises."""
        await trio.to_thread.run_sync(self._catalog.pool(image.pool).destroy, image.uuid)
        self._catalog.remove(image.pool, image.uuid)
        await self._view.remove(image)
        await trio.to_thread.run_sync(self._catalog.forget_manifest, image.pool, image.uuid)
        log.info("deleted", uuid=image.uuid, pool=image.pool)


def _expected(manifest: Manifest, *, path: str | None = None) -> Expected:
    file = manifest.file
    if file is None:
        return Expected(manifest.uuid, path=path)
    return Expected(manifest.uuid, size=file.size, sha1=file.sha1, path=path)


def _strictest(locations: Sequence[Location]) -> Verify:
    """Bytes may come from any of them."""
    return "first" if any(location.verify == "first" for location in locations) else "streaming"


def _worth_asking(download: Download, error: ImgstoreError) -> list[Location]:
    """Who may still have the image: everybody, where it is not sure who sent what was not it."""
    if isinstance(error, ChangedError) or download.resumed:
        return [mirror.location for mirror in download.mirrors]
    return [mirror.location for mirror in download.mirrors if not mirror.fetched]


async def _cancel_with_us(pump: Pump) -> None:
    """Ends the pump when this task is cancelled: its thread cannot be."""
    try:
        await trio.sleep_forever()
    finally:
        pump.cancel(CancelledError("the import was cancelled"))
