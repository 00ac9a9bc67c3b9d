"""The table of imports: which are under way, who follows them, and how fast they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from imgproto.events import ImageProgress

from imgstored import import_id, lanes
from imgstored.errors import StoppingError
from imgstored.events.request import PROGRESS_INTERVAL, ClientRequest
from imgstored.host import heap
from imgstored.imports.progress import EVERY, USUAL, Gauge, Reading, summed_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from imgproto.documents import JobDocument

    from imgstored.catalog.catalog import Key
    from imgstored.events.stream import Action, EventStream, Requester
    from imgstored.imports.import_ import Import


class ImportTable:
    """All imports under way, by pool and uuid. `run` must be running for one to be started.

    Only trio's thread uses it. The result of a look-up cannot change before the next await.
    """

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._imports: dict[Key, Import] = {}
        self._gauges: dict[Key, Gauge] = {}
        self._taking: dict[str, float] = {}  # seconds per byte of each pool's last import
        self._some = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the imports until it is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._sample()
        finally:
            self._nursery = None

    def stop(self) -> None:
        """Starts no more imports. Imports that end from now on keep what they have, and go on next time."""
        self._stopping = True

    def __len__(self) -> int:
        return len(self._imports)

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery of work that outlives a request. Raises `StoppingError` while there is none."""
        if self._nursery is None or self._stopping:
            raise StoppingError
        return self._nursery

    def check_running(self) -> None:
        """Raises `StoppingError` where no import can be started."""
        _ = self.nursery

    # -- the imports -----------------------------------------------------------------------------------------

    def get(self, key: Key) -> Import | None:
        """The import of an image, or None."""
        return self._imports.get(key)

    async def joinable(self, key: Key) -> Import | None:
        """The import of an image, or None; waits while one that was cancelled is still cleaning up."""
        while (found := self._imports.get(key)) is not None and found.cancelled:
            await found.finished.wait()
        return found

    def of_image(self, uuid: str) -> list[Import]:
        """The imports of an image, into all pools."""
        return [each for each in self._imports.values() if each.uuid == uuid]

    def cloned_from(self, pool: str, origin: str) -> list[str]:
        """The names of the partials whose origin is that image."""
        return [
            f"{pool}/{each.uuid}-partial"
            for each in self._imports.values()
            if each.spec.pool == pool and each.manifest.origin == origin
        ]

    def jobs(self) -> list[JobDocument]:
        """All imports as the protocol's *job*."""
        return [_job(each, self._reading(each)) for each in self._imports.values()]

    def progress(self, each: Import) -> ImageProgress:
        """The progress of an import, which may have ended."""
        return _progress(each, None if each.finished.is_set() else self._reading(each))

    def _reading(self, each: Import) -> Reading:
        """The gauge of an import that waits for its origin, which may wait for its own."""
        waits: float | None = 0.0
        reading = Reading(0.0, None, None, None)
        for link in reversed([*each.chain()]):
            gauge = self._gauges.get(link.spec.key)
            if gauge is None or link.finished.is_set():
                continue
            usual = self._taking.get(link.spec.pool, USUAL)
            reading = gauge.read(link.figures.sample(), trio.current_time(), usual=usual, origin=waits)
            waits = reading.eta
        return reading

    def fetched(self) -> dict[Action, Mapping[str, int]]:
        """The bytes that each import has fetched so far, by source."""
        return {each.action: each.figures.fetched for each in self._imports.values()}

    def start(self, started: Import, requester: Requester) -> None:
        """Starts an import, which has no client yet: the caller joins it before the next await."""
        nursery = self.nursery
        key = started.spec.key
        self._imports[key] = started
        self._gauges[key] = Gauge()
        self._gauges[key].sample(started.figures.sample(), trio.current_time())
        self._some.set()
        with import_id.bound(started.import_id):
            nursery.start_soon(self._run, started)
        started.begin(requester)

    async def _run(self, running: Import) -> None:
        try:
            await running.run(lambda: self._stopping)
        finally:
            # There was no await since its end: whoever waits for the end finds the import gone.
            del self._imports[running.spec.key], self._gauges[running.spec.key]
            if not self._imports:
                self._some = trio.Event()
                if self._nursery is not None:
                    self._nursery.start_soon(lanes.in_thread, heap.give_back)

    async def _sample(self) -> None:
        """Takes a sample of each import every second, while there are any."""
        while True:
            await self._some.wait()
            now = trio.current_time()
            for key, each in self._imports.items():
                gauge = self._gauges[key]
                gauge.sample(each.figures.sample(), now)
                if gauge.taking is not None:
                    self._taking[each.spec.pool] = gauge.taking
            await trio.sleep(EVERY)

    # -- followers -------------------------------------------------------------------------------------------

    async def follow(self, request: ClientRequest, imports: Sequence[Import]) -> None:
        """Reports progress until all imports have ended.

        Raises the first one's error, with those of the others in its data.
        """
        async with trio.open_nursery() as nursery:
            chain = list(dict.fromkeys(below for each in imports for below in each.chain()))
            if chain:
                nursery.start_soon(self._report, request, lambda: chain)
            for each in imports:
                await each.finished.wait()
            nursery.cancel_scope.cancel()
        errors = [each.error for each in imports if each.error is not None]
        if errors:
            raise errors[0].with_others(errors[1:])

    async def follow_all(self, request: ClientRequest) -> None:
        """Reports the events of all imports, also of later ones, until it is cancelled."""
        for each in self._imports.values():
            each.replay(request)
        self._events.subscribe(request.hear)
        try:
            await self._report(request, self._imports.values)
        finally:
            self._events.unsubscribe(request.hear)

    def let_go(self, request: ClientRequest) -> None:
        """Ends a request's interest in all imports."""
        for each in list(self._imports.values()):
            self._events.unsubscribe(request.hear, each.action)
            each.leave(request)

    async def _report(self, request: ClientRequest, imports: Callable[[], Iterable[Import]]) -> None:
        """Reports the progress of imports until it is cancelled; nothing while there are none."""
        reported = False
        while True:
            images = [self.progress(each) for each in imports()]
            if images or reported:
                request.emit(summed_up(images))
            reported = bool(images)
            await trio.sleep(PROGRESS_INTERVAL)


def _progress(each: Import, reading: Reading | None) -> ImageProgress:
    """The progress of the import, for watchers; without a reading it has ended."""
    installed = 1.0 if each.phase == "installed" else None
    return ImageProgress(
        uuid=each.uuid,
        name=each.manifest.name,
        version=each.manifest.version,
        phase=each.phase,
        done=each.figures.done,
        total=each.figures.total,
        received=each.figures.received,
        import_id=each.import_id,
        fraction=installed if reading is None else reading.fraction,
        eta=None if reading is None else reading.eta,
        rate=0.0 if reading is None else reading.rate,
        limits=None if reading is None else reading.limits,
        kept=each.figures.kept,
    )


def _job(each: Import, reading: Reading) -> JobDocument:
    """The *job* of the protocol."""
    return {
        "import_id": each.import_id,
        "uuid": each.uuid,
        "name": each.manifest.name,
        "version": each.manifest.version,
        "pool": each.spec.pool,
        "phase": each.phase,
        "done": each.figures.done,
        "total": each.figures.total,
        "received": each.figures.received,
        "connections": each.figures.connections,
        "source": each.action.source,
        "clients": each.clients,
        "started_at": each.started_at,
        "error": None if each.error is None else each.error.message,
        "rate": reading.rate,
        "limits": reading.limits,
        "eta": reading.eta,
        "fraction": reading.fraction,
        "delta": None if each.delta is None else each.delta.document(),
    }
