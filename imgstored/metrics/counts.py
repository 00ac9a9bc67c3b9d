"""What is counted as it happens: imports, bytes, requests. A registry of its own, no process-wide state."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from platform import python_version
from typing import TYPE_CHECKING, Final, Literal

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

from imgstored import __version__
from imgstored.errors import CancelledError, ImgstoreError
from imgstored.events.notifications import Event, Resumed
from imgstored.transfer.limiting import STAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from prometheus_client import Metric

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.catalog.images import Hit
    from imgstored.events.stream import Wanted
    from imgstored.imports.layer import Layer

Outcome = Literal["installed", "failed", "cancelled", "interrupted"]

OUTCOMES: Final = ("installed", "failed", "cancelled", "interrupted")

#: Sources that are told apart, the first ones; the others are one.
_MAX_SOURCES: Final = 50
OTHER: Final = "other"

#: Upper bounds in seconds.
_OF_IMPORTS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_OF_REQUESTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)


class Counts:
    """Is told what happens; a `Recorder` of the store, and the `Timing` of the socket. For trio's thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("imgstored_build", "What runs.", registry=self.registry)
        build.info({"version": __version__, "python": python_version()})

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"imgstored_{name}", what, labels, registry=self.registry)

        def seconds(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"imgstored_{name}_seconds", what, labels, buckets=buckets, registry=self.registry
            )

        self._imports = counter("imports", "Imports and installations that have ended.", "outcome")
        self._failures = counter("import_failures", "Those that failed, by the error's name.", "code")
        self._seconds = seconds("import", "From the beginning of an import to its end.", _OF_IMPORTS)
        self._stages = seconds(
            "import_stage", "What an import that has ended spent in each stage.", _OF_IMPORTS, "stage"
        )
        self._bytes = counter("source_bytes", "Bytes of images' files that came from each source.", "source")
        self._resumed = counter("resumed_bytes", "Bytes that were there from an earlier try.")
        self._hits = counter(
            "cache_hits", "Wishes that needed no download: installed, or already under way.", "kind"
        )
        self._deletions = counter("deletions", "Deletions that have ended.", "outcome")
        self._requests = seconds(
            "rpc_request", "From a request to its answer.", _OF_REQUESTS, "method", "outcome"
        )
        self._counted: dict[Layer, dict[str, int]] = {}  # bytes by source, of those under way
        self._sources: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """What is not 0 from the beginning cannot be seen to grow."""
        for outcome in OUTCOMES:
            self._imports.labels(outcome)
        for stage in STAGES:
            self._stages.labels(stage)
        for kind in ("installed", "joined"):
            self._hits.labels(kind)
        for outcome in ("deleted", "failed", "cancelled"):
            self._deletions.labels(outcome)

    # -- what happens ----------------------------------------------------------------------------------------

    async def follow(self, layer: Layer, *, from_file: bool, stopping: Callable[[], bool]) -> None:
        """Counts a layer when it ends, and before what comes of it. Cannot be cancelled: every layer ends."""
        with trio.CancelScope(shield=True):
            began = time.monotonic()
            self._counted[layer] = {}
            layer.listen(self._heard)
            await layer.finished.wait()
            layer.unlisten(self._heard)
            self._count_bytes(layer)
            del self._counted[layer]
        error = layer.error
        outcome = _outcome(error, stopping=stopping())
        self._imports.labels(outcome).inc()
        if error is not None and outcome == "failed":
            self._failures.labels(error.code).inc()
        self._seconds.observe(time.monotonic() - began)
        for stage, spent in layer.stages.seconds().items():
            self._stages.labels(stage).observe(spent)

    @asynccontextmanager
    async def deletion(self, image: InstalledImage) -> AsyncIterator[None]:
        """Counts how the block ends."""
        outcome = "cancelled"
        try:
            yield
            outcome = "deleted"
        except ImgstoreError:
            outcome = "failed"
            raise
        finally:
            self._deletions.labels(outcome).inc()

    async def refused(self, wanted: Wanted, error: ImgstoreError) -> None:
        """Counts an import that ended before there was a layer."""
        outcome = _outcome(error, stopping=False)
        self._imports.labels(outcome).inc()
        if outcome == "failed":
            self._failures.labels(error.code).inc()

    def hit(self, kind: Hit) -> None:
        """Counts a wish that needed no download."""
        self._hits.labels(kind).inc()

    def request(self, method: str, outcome: str, seconds: float) -> None:
        """Counts an answer."""
        self._requests.labels(method, outcome).observe(seconds)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self._resumed.inc(event.size)

    # -- what comes ------------------------------------------------------------------------------------------

    def count_bytes(self) -> None:
        """Brings the bytes of what is under way up to date."""
        for layer in self._counted:
            self._count_bytes(layer)

    def _count_bytes(self, layer: Layer) -> None:
        counted = self._counted[layer]
        for source, total in layer.fetched().items():
            self._bytes.labels(self._label(source)).inc(max(0, total - counted.get(source, 0)))
            counted[source] = total

    def _label(self, source: str) -> str:
        """Clients may name sources: not every name of theirs gets a place."""
        if source not in self._sources:
            if len(self._sources) >= _MAX_SOURCES:
                return OTHER
            self._sources.add(source)
        return source


def _outcome(error: ImgstoreError | None, *, stopping: bool) -> Outcome:
    if error is None:
        return "installed"
    if isinstance(error, CancelledError):
        return "interrupted" if stopping else "cancelled"
    return "failed"


class Told:
    """A registry as it is told: without when each count began, which is when the daemon did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
