"""What is under way: the layers that are being installed, and who follows them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from imgstored import import_id
from imgstored.errors import CancelledError, ImgstoreError
from imgstored.store.gauge import EVERY, Gauge
from imgstored.store.installer import FromFile, FromSources
from imgstored.store.request import PROGRESS_INTERVAL, ProgressMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproto.documents import JobDocument

    from imgstored.catalog.catalog import Key
    from imgstored.store.installer import Installer
    from imgstored.store.layer import Layer
    from imgstored.store.recorder import Recorder
    from imgstored.store.request import Request


class Imports:
    """All layers, by pool and uuid. `run` must be running for one to be started.

    All of it is touched from trio's thread only. What is looked up here cannot change before the next await.
    """

    def __init__(self, installer: Installer, recorder: Recorder | None = None) -> None:
        self._installer = installer
        self._recorder = recorder
        self._layers: dict[Key, Layer] = {}
        self._gauges: dict[Key, Gauge] = {}
        self._some = trio.Event()
        self._watchers: set[Request] = set()
        self._nursery: trio.Nursery | None = None
        self._stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Works until it is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._sample()
        finally:
            self._nursery = None

    def stop(self) -> None:
        """Starts nothing any more; imports that end from now on keep what they have, and go on next time."""
        self._stopping = True

    @property
    def nursery(self) -> trio.Nursery:
        """Where work that outlives a request is done. Raises `CancelledError` while there is none."""
        if self._nursery is None or self._stopping:
            raise CancelledError("imgstored is stopping", hint="try again in a moment")
        return self._nursery

    # -- the layers ------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Layer | None:
        """The layer of an image, or None."""
        return self._layers.get(key)

    def of_image(self, uuid: str) -> list[Layer]:
        """The layers of an image, in whatever pool."""
        return [layer for layer in self._layers.values() if layer.uuid == uuid]

    def cloned_from(self, pool: str, origin: str) -> list[str]:
        """Names of the partials whose origin is that image."""
        return [
            f"{pool}/{layer.uuid}-partial"
            for layer in self._layers.values()
            if layer.pool == pool and layer.manifest.origin == origin
        ]

    def jobs(self) -> list[JobDocument]:
        """All layers as the protocol's *job*."""
        now = trio.current_time()
        return [
            layer.as_job(self._gauges[key].read(layer.sample(), now)) for key, layer in self._layers.items()
        ]

    async def _sample(self) -> None:
        """Looks at all layers every second, while there are any, for those who ask how it went of late."""
        while True:
            await self._some.wait()
            now = trio.current_time()
            for key, layer in self._layers.items():
                self._gauges[key].sample(layer.sample(), now)
            await trio.sleep(EVERY)

    def start(self, layer: Layer, bytes_from: FromSources | FromFile) -> None:
        """Begins to install. Nobody wants the layer yet: who calls this joins it before the next await."""
        nursery = self.nursery
        key = (layer.pool, layer.uuid)
        self._layers[key] = layer
        self._gauges[key] = Gauge()
        layer.total = None if layer.manifest.file is None else layer.manifest.file.size
        if layer.origin is not None:
            layer.origin.join(layer, f"image {layer.uuid}")
        for watcher in self._watchers:
            layer.listen(watcher.emit)
        self._gauges[key].sample(layer.sample(), trio.current_time())
        self._some.set()
        with import_id.bound(layer.import_id):
            nursery.start_soon(self._run, layer, bytes_from)
            if self._recorder is not None:
                told = partial(self._recorder.follow, layer, stopping=lambda: self._stopping)
                nursery.start_soon(partial(told, from_file=isinstance(bytes_from, FromFile)))

    async def _run(self, layer: Layer, bytes_from: FromSources | FromFile) -> None:
        error: ImgstoreError | None = CancelledError(
            "imgstored is stopping", hint="the import goes on when it is back"
        )
        try:
            with layer.scope:
                error = await self._installer.install(layer, bytes_from, stopping=lambda: self._stopping)
            if layer.scope.cancelled_caught:
                error = CancelledError(f'the import of image "{layer.uuid}" ended: {layer.cancelled_because}')
        finally:
            del self._layers[layer.pool, layer.uuid], self._gauges[layer.pool, layer.uuid]
            if not self._layers:
                self._some = trio.Event()
            if layer.origin is not None:
                layer.origin.leave(layer)
            layer.end(error, from_file=isinstance(bytes_from, FromFile))

    # -- who follows them ------------------------------------------------------------------------------------

    async def follow(self, request: Request, layers: Sequence[Layer]) -> None:
        """Reports progress until all layers have ended; raises the first one's error, others in its data."""
        async with trio.open_nursery() as nursery:
            chain = list(dict.fromkeys(below for layer in layers for below in layer.chain()))
            if chain:
                nursery.start_soon(_report, request, lambda: chain)
            for layer in layers:
                await layer.finished.wait()
            nursery.cancel_scope.cancel()
        errors = [layer.error for layer in layers if layer.error is not None]
        if errors:
            errors[0].data.setdefault("others", [error.as_wire() for error in errors[1:]])
            raise errors[0]

    async def follow_all(self, request: Request) -> None:
        """Reports what happens to all layers, also to those that begin later, until it is cancelled."""
        self._watchers.add(request)
        for layer in self._layers.values():
            layer.listen(request.emit)
        try:
            await _report(request, self._layers.values)
        finally:
            self._watchers.discard(request)

    def let_go(self, request: Request) -> None:
        """Ends a request's interest in everything."""
        for layer in list(self._layers.values()):
            layer.unlisten(request.emit)
            if layer.wanted_by(request):
                layer.leave(request)


async def _report(request: Request, layers: Callable[[], Iterable[Layer]]) -> None:
    meter = ProgressMeter()
    while True:
        request.emit(meter.read(list(layers()), trio.current_time()))
        await trio.sleep(PROGRESS_INTERVAL)
