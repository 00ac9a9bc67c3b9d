"""The store: what is installed, what is being installed, and who wants it. What the socket offers is here.

A request resolves an image's ancestry to *layers*, joins those under way and starts the others, and then watches.
Layers are shared: a hundred requests for one image are one layer. All state is touched from trio's thread only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from imgstored.errors import (
    CancelledError,
    ImageHasDependentClonesError,
    ImageNotInstalledError,
    ImgstoreError,
    InternalError,
    InvalidManifestError,
    OriginNotInstalledError,
    UsageError,
)
from imgstored.manifest import check_uuid, load
from imgstored.manifest.platform import Platform, check_platform
from imgstored.sources.registry import Found
from imgstored.store.catalog import Catalog, InstalledImage, Key, as_wire
from imgstored.store.events import (
    AlreadyInstalled,
    AncestorInstalled,
    GatheringAncestry,
    Importing,
    Installing,
    Planned,
)
from imgstored.store.installer import FromFile, FromSources, Installer
from imgstored.store.layer import Layer
from imgstored.store.lookup import Lookup, Wanted
from imgstored.store.request import PROGRESS_INTERVAL, ProgressMeter, Request
from imgstored.store.sourcebook import SourceBook

log = structlog.get_logger(__name__)

#: As IMGAPI servers allow at most.
MAX_ANCESTRY = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """Which image, where to, and from where if not from the configured sources."""

    uuid: str
    pool: str
    sources: tuple[str, ...] | None = None
    channel: str | None = None


class Store:
    """Owns the images of the host. `run` must be running for anything but reading to work."""

    def __init__(
        self, catalog: Catalog, sources: SourceBook, installer: Installer, platform: Platform | None = None
    ) -> None:
        self.catalog = catalog
        self.sources = sources
        self._installer = installer
        self._platform = platform
        self._layers: dict[Key, Layer] = {}
        self._meters: dict[Key, ProgressMeter] = {}
        self._watchers: set[Request] = set()
        self._deleting: dict[Key, trio.Event] = {}
        self._lookup = Lookup(self._ask)
        self._nursery: trio.Nursery | None = None
        self._stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Works until it is cancelled; begins with what the last daemon left unfinished."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                for unfinished in await self._installer.unfinished():
                    wish = Wish(unfinished.uuid, unfinished.pool, unfinished.sources, unfinished.channel)
                    nursery.start_soon(self._resume, wish)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def stop(self) -> None:
        """Says that the daemon is going: imports that end from now on keep what they have, and go on next time."""
        self._stopping = True

    # -- reading ---------------------------------------------------------------------------------------------

    def installed(self) -> list[dict[str, Any]]:
        """All installed images as the protocol's *image*."""
        clones = self.catalog.clones()
        return [as_wire(image, clones.get((image.pool, image.uuid), ())) for image in self.catalog.all()]

    def image(self, uuid: str, pool: str | None, *, recursive: bool) -> dict[str, Any]:
        """One installed image; with `children` when recursive."""
        check_uuid(uuid)
        image = self.catalog.get(self.catalog.pool(pool).name, uuid)
        wire = as_wire(image)
        del wire["cloneNames"], wire["clones"]
        if recursive:
            clones = self.catalog.clones().get((image.pool, uuid), [])
            wire["children"] = {"snapshots": [f"{image.pool}/{uuid}@final"], "clones": clones}
        return wire

    async def show(self, uuid: str) -> dict[str, Any]:
        """The manifest of an image in the sources, in whatever state it is."""
        found = await self._lookup.find((uuid, False, None, None), self._running())
        return dict(found.manifest.document)

    def jobs(self) -> list[dict[str, Any]]:
        """All layers under way."""
        now = trio.current_time()
        return [
            {**layer.as_job(), "rate": self._meters[key].read([layer], now).rate}
            for key, layer in self._layers.items()
        ]

    # -- wishing ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def request(
        self,
        uuids: Sequence[str],
        *,
        client: str,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> AsyncIterator[Request]:
        """A client wants these images. Leaving the block ends its interest in them."""
        if not uuids:
            raise UsageError("no image is named", hint="give at least one uuid")
        for uuid in uuids:
            check_uuid(uuid)
        name = self.catalog.pool(pool).name
        replaced = None if sources is None else tuple(sources)
        wishes = [Wish(uuid, name, replaced, channel) for uuid in dict.fromkeys(uuids)]

        async def fulfil(request: Request) -> None:
            layers = [await self._want(request, wish) for wish in wishes]
            await self._await_layers(request, [layer for layer in layers if layer is not None])

        async with self._asking(client, fulfil) as request:
            yield request

    @asynccontextmanager
    async def install(
        self, manifest: Mapping[str, Any], fd: int, *, client: str, pool: str | None = None, path: str = "the file"
    ) -> AsyncIterator[Request]:
        """A client has an image's file open as `fd`, and wants it installed. `path` is for messages only."""
        loaded = load(dict(manifest), rules="install")
        target = self.catalog.pool(pool).name

        async def fulfil(request: Request) -> None:
            await self._settled((target, loaded.uuid))
            if self._told_installed(request, target, loaded.uuid):
                return
            layer = self._layers.get((target, loaded.uuid))
            if layer is None:
                if loaded.origin is not None and self.catalog.find(target, loaded.origin) is None:
                    raise OriginNotInstalledError(
                        f'origin image "{loaded.origin}" is not installed in pool "{target}"',
                        hint=f"install it first: `imgctl import {loaded.origin}`",
                    )
                layer = Layer(target, loaded, None)
                self._start(layer, FromFile(fd, path))
            request.emit(Installing(loaded.uuid, loaded.name, loaded.version))
            self._attach(request, layer)
            await self._await_layers(request, [layer])

        async with self._asking(client, fulfil) as request:
            yield request

    @asynccontextmanager
    async def watch(self, uuid: str | None, *, client: str = "") -> AsyncIterator[Request]:
        """Everything that happens to all layers, or to one until it has ended."""
        if uuid is not None:
            check_uuid(uuid)

        async def fulfil(request: Request) -> None:
            if uuid is not None:
                await self._watch_one(request, uuid)
                return
            self._watchers.add(request)
            for layer in self._layers.values():
                layer.listen(request.emit)
            try:
                await self._report(request, self._layers.values)
            finally:
                self._watchers.discard(request)
                for layer in self._layers.values():
                    layer.unlisten(request.emit)

        async with self._asking(client, fulfil) as request:
            yield request

    async def cancel(self, uuid: str) -> None:
        """Ends an image's import, whoever wants it."""
        check_uuid(uuid)
        layers = [layer for layer in self._layers.values() if layer.uuid == uuid]
        if not layers:
            raise ImageNotInstalledError(uuid, "any pool") if not self._installed_anywhere(uuid) else UsageError(
                f'image "{uuid}" is installed, not being imported', hint="`imgctl jobs` lists what is under way"
            )
        for layer in layers:
            layer.cancel("it was cancelled")
            await layer.finished.wait()

    # -- deleting --------------------------------------------------------------------------------------------

    async def delete(self, uuid: str, pool: str | None) -> None:
        """Removes an installed image. Refused while anything is cloned from it, or about to be."""
        check_uuid(uuid)
        name = self.catalog.pool(pool).name
        await self._settled((name, uuid))
        image = self.catalog.get(name, uuid)
        expecting = [f"{name}/{layer.uuid}-partial" for layer in self._layers.values() if layer.manifest.origin == uuid]
        if expecting:
            raise ImageHasDependentClonesError(
                f'image "{uuid}" has dependent clones: {expecting[0]}',
                hint="an image that is cloned from it is being imported",
                data={"dependents": expecting},
            )
        done = self._deleting[name, uuid] = trio.Event()
        try:
            with trio.CancelScope(shield=True):
                await self._installer.remove(image)
        finally:
            del self._deleting[name, uuid]
            done.set()

    # -- how a wish is fulfilled -----------------------------------------------------------------------------

    @asynccontextmanager
    async def _asking(
        self, client: str, fulfil: Callable[[Request], Awaitable[None]]
    ) -> AsyncIterator[Request]:
        """Runs `fulfil` beside the block that reads its events, until either is through."""
        request = Request(client)
        ended = trio.Event()

        async def serve() -> None:
            try:
                with request.scope:
                    await _told(request, fulfil)
            finally:
                self._let_go(request)
                request.end(CancelledError("imgstored is stopping", hint="it goes on with imports when it is back"))
                ended.set()

        self._running().start_soon(serve)
        try:
            yield request
        finally:
            request.scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()

    async def _want(self, request: Request, wish: Wish) -> Layer | None:
        """The layer of the wished image, joined by the request; None when the image is installed."""
        await self._settled((wish.pool, wish.uuid))
        if self._told_installed(request, wish.pool, wish.uuid):
            return None
        layer = self._layers.get((wish.pool, wish.uuid))
        if layer is None:
            layer = await self._resolve(request, wish)
            if layer is None:
                return None
        else:
            manifest = layer.manifest
            request.emit(Importing(wish.uuid, manifest.name, manifest.version, layer.source or "a local file"))
        chain = list(layer.chain())
        sizes = [below.total for below in chain]
        request.emit(Planned(len(chain), None if None in sizes else sum(size or 0 for size in sizes)))
        for below in chain:
            below.listen(request.emit)
        self._attach(request, layer)
        return layer

    async def _resolve(self, request: Request, wish: Wish) -> Layer | None:
        """Finds the image and its ancestors that are not installed, and starts a layer for each."""
        head = await self._find(wish, wish.uuid, active=True)
        request.emit(
            Importing(wish.uuid, head.manifest.name, head.manifest.version, head.source.url, wish.channel)
        )
        request.emit(GatheringAncestry(wish.uuid))
        chain = [head]
        while (origin := chain[-1].manifest.origin) is not None:
            if self.catalog.find(wish.pool, origin) is not None:
                request.emit(AncestorInstalled(origin))
                break
            if (wish.pool, origin) in self._layers:
                break
            if len(chain) >= MAX_ANCESTRY or any(found.manifest.uuid == origin for found in chain):
                raise InvalidManifestError(
                    f'image "{wish.uuid}" has an endless ancestry at origin "{origin}"',
                    hint=f"the manifests at {head.source.url} are wrong; tell whoever runs it",
                )
            chain.append(await self._find(wish, origin, active=False))
        # From here to the end nothing is awaited: what is looked up cannot change before it is joined.
        layer: Layer | None = None
        for found in reversed(chain):
            layer = self._layer_for(wish, found, layer)
        return layer if not self._told_installed(request, wish.pool, wish.uuid) else None

    def _layer_for(self, wish: Wish, found: Found, origin: Layer | None) -> Layer | None:
        manifest = found.manifest
        key = (wish.pool, manifest.uuid)
        if self.catalog.find(*key) is not None:
            return None
        if (layer := self._layers.get(key)) is not None:
            return layer
        if manifest.origin is not None and origin is None:
            origin = self._layers.get((wish.pool, manifest.origin))
            if origin is None and (
                self.catalog.find(wish.pool, manifest.origin) is None or (wish.pool, manifest.origin) in self._deleting
            ):
                raise OriginNotInstalledError(
                    f'origin image "{manifest.origin}" of image "{manifest.uuid}" was deleted meanwhile',
                    hint="ask again: it is then imported too",
                )
        layer = Layer(wish.pool, manifest, found.source.url, origin)
        self._start(layer, FromSources(found.locations, wish.sources, wish.channel))
        return layer

    async def _find(self, wish: Wish, uuid: str, *, active: bool) -> Found:
        found = await self._lookup.find((uuid, active, wish.sources, wish.channel), self._running())
        check_platform(found.manifest, self._platform)
        return found

    async def _ask(self, wanted: Wanted) -> Found:
        uuid, active, sources, channel = wanted
        return await self.sources.find(uuid, active=active, sources=sources, channel=channel)

    def _start(self, layer: Layer, origin_of_bytes: FromSources | FromFile) -> None:
        key = (layer.pool, layer.uuid)
        self._layers[key] = layer
        self._meters[key] = ProgressMeter()
        layer.total = layer.manifest.file.size if layer.manifest.file is not None else None
        if layer.origin is not None:
            layer.origin.join(layer, f"image {layer.uuid}")
        for watcher in self._watchers:
            layer.listen(watcher.emit)
        self._running().start_soon(self._run_layer, layer, origin_of_bytes)

    async def _run_layer(self, layer: Layer, origin_of_bytes: FromSources | FromFile) -> None:
        error: ImgstoreError | None = CancelledError("imgstored is stopping", hint="the import goes on when it is back")
        try:
            with layer.scope:
                error = await self._installer.install(layer, origin_of_bytes, stopping=lambda: self._stopping)
            if layer.scope.cancelled_caught:
                error = CancelledError(f'the import of image "{layer.uuid}" ended: {layer.cancelled_because}')
        finally:
            del self._layers[layer.pool, layer.uuid], self._meters[layer.pool, layer.uuid]
            if layer.origin is not None:
                layer.origin.leave(layer)
            layer.end(error, from_file=isinstance(origin_of_bytes, FromFile))

    async def _await_layers(self, request: Request, layers: Sequence[Layer]) -> None:
        """Reports progress until all layers have ended; raises the first one's error, others in its data."""
        async with trio.open_nursery() as nursery:
            chain = list(dict.fromkeys(below for layer in layers for below in layer.chain()))
            if chain:
                nursery.start_soon(self._report, request, lambda: chain)
            for layer in layers:
                await layer.finished.wait()
            nursery.cancel_scope.cancel()
        errors = [layer.error for layer in layers if layer.error is not None]
        if errors:
            errors[0].data.setdefault("others", [error.as_wire() for error in errors[1:]])
            raise errors[0]

    async def _watch_one(self, request: Request, uuid: str) -> None:
        layers = [layer for layer in self._layers.values() if layer.uuid == uuid]
        if not layers and not self._installed_anywhere(uuid):
            raise ImageNotInstalledError(uuid, self.catalog.pool(None).name)
        for layer in layers:
            layer.listen(request.emit)
        await self._await_layers(request, layers)

    async def _report(self, request: Request, layers: Callable[[], Any]) -> None:
        meter = ProgressMeter()
        while True:
            request.emit(meter.read(list(layers()), trio.current_time()))
            await trio.sleep(PROGRESS_INTERVAL)

    async def _resume(self, wish: Wish) -> None:
        """Goes on with an import of the last daemon; asks again, ever more rarely, while no source answers."""
        log.info("going on with an unfinished import", uuid=wish.uuid, pool=wish.pool)
        pause = 5.0
        while True:
            try:
                async with self.request(
                    [wish.uuid],
                    client="imgstored (after a restart)",
                    pool=wish.pool,
                    sources=wish.sources,
                    channel=wish.channel,
                ) as request:
                    async for _ in request:
                        pass
            except ImgstoreError as error:
                if not self._installer.is_unfinished(wish.pool, wish.uuid):
                    log.warning("gave up an unfinished import", uuid=wish.uuid, error=error.message)
                    return
                log.warning("an unfinished import waits", uuid=wish.uuid, error=error.message, seconds=pause)
            else:
                return
            await trio.sleep(pause)
            pause = min(2 * pause, 600.0)

    # -- small things ----------------------------------------------------------------------------------------

    def _attach(self, request: Request, layer: Layer) -> None:
        layer.join(request, request.client)

    def _let_go(self, request: Request) -> None:
        for layer in list(self._layers.values()):
            layer.unlisten(request.emit)
            if layer.wanted_by(request):
                layer.leave(request)

    def _told_installed(self, request: Request, pool: str, uuid: str) -> bool:
        image = self.catalog.find(pool, uuid)
        if image is not None:
            request.emit(AlreadyInstalled(uuid, image.text("name"), image.text("version")))
        return image is not None

    def _installed_anywhere(self, uuid: str) -> InstalledImage | None:
        return next((image for image in self.catalog.all() if image.uuid == uuid), None)

    async def _settled(self, key: Key) -> None:
        while (deletion := self._deleting.get(key)) is not None:
            await deletion.wait()

    def _running(self) -> trio.Nursery:
        if self._nursery is None or self._stopping:
            raise CancelledError("imgstored is stopping", hint="try again in a moment")
        return self._nursery


async def _told(request: Request, fulfil: Callable[[Request], Awaitable[None]]) -> None:
    """Fulfils the wish, and tells the reader how it ended."""
    try:
        await fulfil(request)
    except ImgstoreError as error:
        request.end(error)
    except Exception:
        log.exception("a request failed", client=request.client)
        request.end(InternalError("imgstored made a mistake", hint="its log has the details"))
    else:
        request.end()

