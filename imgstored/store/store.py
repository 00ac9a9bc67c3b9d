"""The store: what is installed, what is being installed, and who wants it. What the socket offers is here.

A request resolves an image's ancestry to *layers*, joins those under way and starts the others, and then
watches. Layers are shared: a hundred requests for one image are one layer. All state is touched from trio's
thread only.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog
import trio

from imgstored.catalog.catalog import as_wire, as_wires
from imgstored.catalog.holds import Holds
from imgstored.errors import (
    CancelledError,
    ImageNotInstalledError,
    OriginNotInstalledError,
    UsageError,
)
from imgstored.manifest import check_uuid, in_lower_case, load
from imgstored.store.ancestry import Ancestry, Wish
from imgstored.store.deletions import Deletions
from imgstored.store.events import AlreadyInstalled, Held, Importing, Installing, Planned
from imgstored.store.imports import Imports
from imgstored.store.installer import FromFile
from imgstored.store.layer import Layer
from imgstored.store.recorder import Wanted, begun_by
from imgstored.store.request import Request
from imgstored.store.unfinished import go_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from imgstored.catalog.catalog import Catalog, InstalledImage
    from imgstored.catalog.refresh import Refresh
    from imgstored.manifest import Manifest
    from imgstored.manifest.platform import Platform
    from imgstored.sources.sourcebook import SourceBook
    from imgstored.store.installer import Installer
    from imgstored.store.recorder import Recorder

log = structlog.get_logger(__name__)

#: Why a wish needs none: the image is there, or somebody else's layer brings it.
Hit = Literal["installed", "joined"]

#: Images that one request may name.
MAX_WISHES = 1000


def _nothing(_: Hit) -> None:
    return None


class Store:
    """Owns the images of the host. `run` must be running for anything but reading to work."""

    def __init__(
        self,
        catalog: Catalog,
        sources: SourceBook,
        installer: Installer,
        refresh: Refresh,
        platform: Platform | None = None,
        *,
        recorder: Recorder | None = None,
        hit: Callable[[Hit], None] | None = None,
    ) -> None:
        """`hit` is called for each wish that needs no download of its own."""
        self._hit = hit or _nothing
        self._catalog = catalog
        self._installer = installer
        self._refresh = refresh
        self._sources = sources
        self._recorder = recorder
        self._imports = Imports(installer, recorder)
        self._holds = Holds(catalog)
        self._deletions = Deletions(catalog, self._imports, installer, recorder)
        self._ancestry = Ancestry(catalog, self._imports, sources, platform, self._deletions.under_way)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Works until it is cancelled; begins with what the last daemon left unfinished."""
        await trio.to_thread.run_sync(self._holds.sweep)
        unfinished = await self._installer.unfinished()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._imports.run)
            for each in unfinished:
                wish = Wish(each.uuid, each.pool, each.sources, each.channel, each.zstream)
                nursery.start_soon(go_on, wish, self._fulfil, self._installer.is_unfinished)
            nursery.start_soon(self._refresh.run)
            task_status.started()

    def stop(self) -> None:
        """Says that the daemon is going: imports that end now keep what they have, and go on next time."""
        self._imports.stop()

    # -- reading ---------------------------------------------------------------------------------------------

    async def installed(self, *, holds: bool = False) -> list[dict[str, Any]]:
        """All installed images as the protocol's *image*; see `Refresh.all` where a pool does not answer.

        With their `holds`, for which every pool must answer: raises `PoolError`.
        """
        await self._refresh.all()
        return as_wires(self._catalog, self._catalog.all(), await self._holds.all() if holds else None)

    async def image(self, uuid: str, pool: str | None, *, recursive: bool) -> dict[str, Any]:
        """One installed image; with `children` when recursive."""
        image = self._catalog.get(await self._fresh(uuid, pool), uuid)
        wire = as_wire(image)
        del wire["cloneNames"], wire["clones"]
        if recursive:
            clones = self._catalog.clones().get((image.pool, uuid), [])
            wire["children"] = {"snapshots": [f"{image.pool}/{uuid}@final"], "clones": clones}
        return wire

    async def ancestry(self, uuid: str, pool: str | None) -> list[dict[str, Any]]:
        """An installed image, what it was cloned from, and so on, as the protocol's *images*."""
        name = await self._fresh(uuid, pool)
        chain = [self._catalog.get(name, uuid)]
        while (origin := chain[-1].origin) is not None:
            chain.append(self._catalog.get(name, origin))
        return as_wires(self._catalog, chain)

    def expecting(self, pool: str, uuid: str) -> list[str]:
        """Names of what is about to be cloned from an image."""
        return self._imports.cloned_from(pool, uuid)

    async def show(self, uuid: str) -> dict[str, Any]:
        """The manifest of an image in the sources, also of one that cannot be imported."""
        return await self._sources.show(uuid)

    def jobs(self) -> list[dict[str, Any]]:
        """All imports under way, as the protocol's *job*."""
        return self._imports.jobs()

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
        zstream: bool = False,
    ) -> AsyncIterator[Request]:
        """A client wants these images. Leaving the block ends its interest in them.

        With `zstream` the sources' files are streams as they are now, of which the manifests say nothing.
        """
        if not 0 < len(uuids) <= MAX_WISHES:
            raise UsageError(
                f"{len(uuids)} images are named", hint=f"name at least one, and at most {MAX_WISHES}"
            )
        for uuid in uuids:
            check_uuid(uuid)
        name = self._catalog.pool(pool).name
        replaced = None if sources is None else tuple(sources)
        wishes = [Wish(uuid, name, replaced, channel, zstream) for uuid in dict.fromkeys(uuids)]

        async def fulfil(request: Request) -> None:
            await self._refresh.pool(name)
            layers = [await self._want(request, wish) for wish in wishes]
            await self._imports.follow(request, [layer for layer in layers if layer is not None])

        async with self._asking(client, fulfil) as request:
            yield request

    @asynccontextmanager
    async def install(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        *,
        client: str,
        pool: str | None = None,
        path: str = "the file",
    ) -> AsyncIterator[Request]:
        """A client has an image's file open as `fd`, and wants it installed. `path` is for messages only."""
        if isinstance(uuid := manifest.get("uuid"), str):
            check_uuid(in_lower_case(uuid))  # imgadm says this first, and nothing else
        loaded = load(_dated(manifest), rules="install")
        target = self._catalog.pool(pool).name

        async def fulfil(request: Request) -> None:
            await self._refresh.pool(target)
            layer = await self._want_file(request, target, loaded, FromFile(fd, path))
            if layer is not None:
                await self._imports.follow(request, [layer])

        async with self._asking(client, fulfil) as request:
            yield request

    @asynccontextmanager
    async def watch(self, uuid: str | None, *, client: str = "") -> AsyncIterator[Request]:
        """Everything that happens to all layers, or to one until it has ended."""
        if uuid is not None:
            check_uuid(uuid)

        async def fulfil(request: Request) -> None:
            if uuid is None:
                await self._imports.follow_all(request)
                return
            layers = self._imports.of_image(uuid)
            if not layers and not self._installed_anywhere(uuid):
                raise ImageNotInstalledError(uuid, self._catalog.pool(None).name)
            for layer in layers:
                layer.listen(request.emit)
            await self._imports.follow(request, layers)

        async with self._asking(client, fulfil) as request:
            yield request

    async def cancel(self, uuid: str) -> None:
        """Ends an image's import, whoever wants it."""
        check_uuid(uuid)
        layers = self._imports.of_image(uuid)
        if not layers:
            if self._installed_anywhere(uuid):
                raise UsageError(
                    f'image "{uuid}" is installed, not being imported',
                    hint="`imgctl jobs` lists what is under way",
                )
            raise ImageNotInstalledError(uuid, self._catalog.pool(None).name)
        for layer in layers:
            layer.cancel("it was cancelled")
            await layer.finished.wait()

    # -- deleting --------------------------------------------------------------------------------------------

    async def delete(self, uuid: str, pool: str | None) -> None:
        """Removes an installed image. Refused while anything is cloned from it, or about to be."""
        await self._deletions.delete(await self._fresh(uuid, pool), uuid)

    # -- holding ---------------------------------------------------------------------------------------------

    async def hold(self, uuid: str, tag: str, pool: str | None) -> None:
        """Keeps an image from being deleted, by anybody, until the tag is released."""
        await self._holds.hold(uuid, tag, await self._fresh(uuid, pool))

    async def release(self, uuid: str, tag: str, pool: str | None) -> None:
        """Ends a hold."""
        await self._holds.release(uuid, tag, await self._fresh(uuid, pool))

    async def holds(self, uuid: str, pool: str | None) -> list[str]:
        """The tags that hold an image, sorted."""
        return await self._holds.tags(uuid, await self._fresh(uuid, pool))

    @asynccontextmanager
    async def holding(self, uuid: str, pool: str | None, *, client: str) -> AsyncIterator[Request]:
        """A client keeps an image from being deleted as long as the block lasts."""
        check_uuid(uuid)

        async def fulfil(request: Request) -> None:
            async with self._holds.held(uuid, await self._fresh(uuid, pool), client) as tag:
                request.emit(Held(uuid, tag))
                await trio.sleep_forever()

        async with self._asking(client, fulfil) as request:
            yield request

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
                    await request.run(fulfil)
            finally:
                self._imports.let_go(request)
                request.end(CancelledError("imgstored is stopping", hint="it goes on when it is back"))
                ended.set()

        self._imports.nursery.start_soon(serve)
        try:
            yield request
        finally:
            request.scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()

    async def _want(self, request: Request, wish: Wish) -> Layer | None:
        """The layer of the wished image, joined by the request; None when the image is installed."""
        await self._deletions.settled((wish.pool, wish.uuid))
        if self._told_installed(request, wish.pool, wish.uuid):
            return None
        layer = self._imports.get((wish.pool, wish.uuid))
        if layer is None:
            async with begun_by(self._recorder, Wanted("import", wish.uuid, wish.pool)):
                layer = await self._ancestry.layer(request, wish)
            if layer is None:
                return None
        else:
            manifest = layer.manifest
            request.emit(
                Importing(wish.uuid, manifest.name, manifest.version, layer.source or "a local file")
            )
        if layer.clients:
            self._hit("joined")
            log.debug("joined", uuid=wish.uuid, client=request.client, import_id=layer.import_id)
        self._join(request, layer)
        return layer

    async def _want_file(
        self, request: Request, pool: str, manifest: Manifest, given: FromFile
    ) -> Layer | None:
        key = (pool, manifest.uuid)
        await self._deletions.settled(key)
        if self._told_installed(request, *key):
            return None
        layer = self._imports.get(key)
        if layer is None:
            wanted = Wanted("install", manifest.uuid, pool, manifest.name, manifest.version)
            async with begun_by(self._recorder, wanted):
                self._check_origin(pool, manifest.origin)
            layer = Layer(pool, manifest, None)
            # The client may leave, and close its file, while others still want the image.
            self._imports.start(layer, FromFile(os.dup(given.fd), given.path))
        else:
            self._hit("joined")
        request.emit(Installing(manifest.uuid, manifest.name, manifest.version))
        layer.listen(request.emit)
        layer.join(request, request.client)
        return layer

    def _check_origin(self, pool: str, origin: str | None) -> None:
        if origin is not None and self._catalog.find(pool, origin) is None:
            raise OriginNotInstalledError(
                f'origin image "{origin}" is not installed in pool "{pool}"',
                hint=f"install it first: `imgctl import {origin}`",
            )

    def _join(self, request: Request, layer: Layer) -> None:
        """The request follows the layer and all below it, and wants the layer."""
        chain = list(layer.chain())
        sizes = [below.total for below in chain]
        request.emit(Planned(len(chain), None if None in sizes else sum(size or 0 for size in sizes)))
        for below in chain:
            below.listen(request.emit)
        layer.join(request, request.client)

    async def _fulfil(self, wish: Wish) -> None:
        """Of an earlier daemon. Raises what keeps it from that."""
        async with self.request(
            [wish.uuid],
            client="imgstored (after a restart)",
            pool=wish.pool,
            sources=wish.sources,
            channel=wish.channel,
            zstream=wish.zstream,
        ) as request:
            async for _ in request:
                continue

    # -- small things ----------------------------------------------------------------------------------------

    def _told_installed(self, request: Request, pool: str, uuid: str) -> bool:
        image = self._catalog.find(pool, uuid)
        if image is not None:
            self._hit("installed")
            request.emit(AlreadyInstalled(uuid, image.text("name"), image.text("version")))
        return image is not None

    def _installed_anywhere(self, uuid: str) -> InstalledImage | None:
        return next((image for image in self._catalog.all() if image.uuid == uuid), None)

    async def _fresh(self, uuid: str, pool: str | None) -> str:
        """The pool's name, once what is known of it is true and no deletion of the image is under way."""
        check_uuid(uuid)
        name = self._catalog.pool(pool).name
        await self._deletions.settled((name, uuid))
        await self._refresh.pool(name)
        return name


def _dated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, published now if it does not say when (as imgadm does)."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {**manifest, "published_at": manifest.get("published_at") or now}
