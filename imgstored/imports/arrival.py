"""How a layer's bytes get into its pool's partial.

    download ──► spool ──► digest ──► decompress ──► pool.receive

Nothing is received before the origin is in and the way is clear; the download does not wait for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import CancelledError, ImgstoreError, ResumeError, StreamError, UncompressionError
from imgstored.events.notifications import Downloaded, Note, Resumed
from imgstored.http.location import origin_of, public
from imgstored.imports.free_space import Room
from imgstored.imports.leftovers import spool_name
from imgstored.imports.local_file import LocalFile
from imgstored.transfer.digest import Expected, WrongFileError
from imgstored.transfer.download import Download
from imgstored.transfer.mirror import ChangedError
from imgstored.transfer.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from imgstored.http.location import Location, Verify
    from imgstored.imports.installer import FromFile, FromSources, InstallLimits
    from imgstored.imports.journal import Journal
    from imgstored.imports.layer import Layer
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Pool, PoolImage

log = structlog.get_logger(__name__)

#: What came is not the image: another mirror may have it.
WRONG_BYTES = (WrongFileError, ChangedError, UncompressionError, StreamError)

#: How often one import begins anew because a mirror sent another file, before it fails.
_MAX_ATTEMPTS = 4


class NotReceivedError(Exception):
    """There is no reason to receive the image, and no fault of its own."""


class OriginFailedError(NotReceivedError):
    """The layer below was not installed, and so this one cannot be."""

    def __init__(self, error: ImgstoreError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Way:
    """A layer's way into its pool."""

    pool: Pool
    #: Returns when nobody else is at work on the image; raises `NotReceivedError` if it is there then.
    clear: Callable[[], Awaitable[None]]
    #: Drops what was received and spooled.
    drop_bytes: Callable[[], Awaitable[None]]


class Arrivals:
    """The transfers of all layers. Everything that blocks runs in threads of bounded number."""

    def __init__(self, journal: Journal, spools: Path, limits: InstallLimits) -> None:
        self._journal = journal
        self._spools = spools
        self.reconfigure(limits)

    def reconfigure(self, limits: InstallLimits) -> None:
        """Takes new limits for what begins from now on."""
        self._limits = limits
        self._room = Room(self._spools, limits.min_free)
        self._downloading = trio.CapacityLimiter(limits.imports)
        # A receive needs no download slot once its bytes are there, and must not take one from a download.
        self._receiving = trio.CapacityLimiter(2 * limits.imports)

    @property
    def room(self) -> Room:
        """Where there must be room for what arrives."""
        return self._room

    async def from_sources(self, layer: Layer, origin: FromSources, way: Way) -> None:
        """Brings the image into its pool's partial; begins anew elsewhere when what came was not it."""
        manifest = layer.manifest
        await trio.to_thread.run_sync(
            partial(self._journal.begin, zstream=origin.zstream),
            layer.pool,
            layer.uuid,
            manifest.document,
            origin.sources,
            origin.channel,
        )
        locations: Sequence[Location] = origin.locations
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            download = self._download(layer, locations)
            pump = self._pump(layer, download, _strictest(locations))
            try:
                await self._transfer(layer, way, download, pump)
            except ResumeError as error:
                # The bytes are right; the pool has dropped what it could not go on with.
                if attempt == _MAX_ATTEMPTS:
                    raise
                log.warning("receiving afresh", uuid=layer.uuid, error=error.message, attempt=attempt)
                layer.emit(Note(f"{error.message}; receiving it from the beginning"))
            except WRONG_BYTES as error:
                locations = _worth_asking(download, error)
                if not locations or attempt == _MAX_ATTEMPTS:
                    raise
                log.warning("beginning anew", uuid=layer.uuid, error=error.message, attempt=attempt)
                layer.emit(Note(f"{error.message}; beginning anew with {public(locations[0].source)}"))
                await way.drop_bytes()
            else:
                return

    async def from_file(self, layer: Layer, given: FromFile, way: Way) -> None:
        """Brings a local file's image into its pool's partial."""
        file = LocalFile(given.fd, given.path)
        expected = _expected(layer.manifest, path=given.path)
        if expected.size is not None and file.size != expected.size:
            raise WrongFileError(
                f"image file size error: manifest says {expected.size} bytes, "
                f"{given.path} is {file.size} bytes",
                hint="the manifest belongs to another file",
            )
        pump = Pump(
            file.blocks,
            expected,
            self._limits.decompress,
            verify="first",
            release=file.fail,
            stages=layer.stages,
        )
        layer.total = file.size
        layer.done, layer.received = (lambda: pump.compressed), (lambda: pump.stream)
        layer.consumed = lambda: pump.consumed
        layer.phase = "receiving"
        await self._receive(layer, way, pump, at_least=file.size)

    def _download(self, layer: Layer, locations: Sequence[Location]) -> Download:
        file = layer.manifest.file
        name = spool_name(layer.pool, layer.uuid)

        def note(text: str) -> None:
            log.info("a download has trouble", uuid=layer.uuid, trouble=text)
            layer.emit(Note(text))

        download = Download(
            locations,
            size=None if file is None else file.size,
            path=self._spools / name,
            journal=self._journal.ranges(name),
            limits=self._limits.download,
            room=self._room.for_download,
            note=note,
        )
        download.front.waiting = layer.stages.waiting
        layer.done, layer.connections = (lambda: download.done), (lambda: download.connections)
        layer.fetched = partial(_fetched, layer.fetched(), download)
        return download

    def _pump(self, layer: Layer, download: Download, verify: Verify) -> Pump:
        pump = Pump(
            download.blocks,
            _expected(layer.manifest),
            self._limits.decompress,
            verify=verify,
            release=download.front.fail,
            stages=layer.stages,
        )
        layer.received, layer.consumed = (lambda: pump.stream), (lambda: pump.consumed)
        return pump

    async def _transfer(self, layer: Layer, way: Way, download: Download, pump: Pump) -> None:
        """Downloads and receives side by side; either one's failure ends the other."""
        failures: list[ImgstoreError | NotReceivedError] = []

        async def fetch() -> None:
            try:
                await self._fetch(layer, download)
            except ImgstoreError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            try:
                await self._receive(layer, way, pump, at_least=download.total or 0)
            except (ImgstoreError, NotReceivedError) as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _fetch(self, layer: Layer, download: Download) -> None:
        def opened(present: int) -> None:
            if present:
                log.info("resuming", uuid=layer.uuid, present=present, total=download.total)
                layer.emit(Resumed(layer.uuid, present, download.total))

        with layer.stages.turn:
            await self._downloading.acquire()
        try:
            layer.phase = "downloading"
            download.front.begin()
            await download.run(opened)
        finally:
            self._downloading.release()
        layer.phase = "receiving"
        layer.emit(Downloaded(layer.uuid, download.done))

    async def _receive(self, layer: Layer, way: Way, pump: Pump, *, at_least: int) -> PoolImage:
        """Receives into the pool once the origin is in. On return no thread is left, whatever happened."""
        if layer.origin is not None:
            with layer.stages.origin:
                await layer.origin.finished.wait()
            if layer.origin.error is not None:
                raise OriginFailedError(layer.origin.error)
        # Only now: who waits for an origin must not keep others from the image.
        with layer.stages.lock:
            await way.clear()
        pool = way.pool

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
        layer.arrived = outcome
        return outcome


def _expected(manifest: Manifest, *, path: str | None = None) -> Expected:
    file = manifest.file
    if file is None:
        return Expected(manifest.uuid, path=path)
    return Expected(manifest.uuid, size=file.size, sha1=file.sha1, path=path)


def _fetched(before: Mapping[str, int], download: Download) -> dict[str, int]:
    """Bytes that came over the network, by source, with those of the attempts before."""
    total = dict(before)
    for mirror in download.mirrors:
        source = origin_of(mirror.location.source).authority
        total[source] = total.get(source, 0) + mirror.fetched
    return total


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
