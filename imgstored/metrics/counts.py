"""The counters: imports, bytes, requests. They have their own registry and no process-wide state."""

from __future__ import annotations

import time
from platform import python_version
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

from imgstored import __version__, errors
from imgstored.errors import ImgstoreError
from imgstored.events.stream import CacheHit, Ended, HookEnded, ImportEvent, Refused, Started, outcome_of
from imgstored.transfer.limiting import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from imgstored.events.stream import Action, Outcome, StoreEvent

OUTCOMES: Final = ("installed", "failed", "cancelled", "interrupted")

#: What an import can fail with.
CODES: Final = frozenset(
    each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ImgstoreError)
)

#: The first sources have labels of their own; the others share one.
_MAX_SOURCES: Final = 50
OTHER: Final = "other"

#: Upper bounds in seconds.
_OF_IMPORTS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_OF_REQUESTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)


class _UnderWay(Struct, frozen=True):
    """An import under way."""

    began: float
    counted: dict[str, int] = field(default_factory=dict)  #: bytes by source


class Counts:
    """The counters: a listener of the store's events, and the socket's `Timing`. For trio's thread."""

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
            "cache_hits", "Requests that needed no download: installed, or already under way.", "kind"
        )
        self._deletions = counter("deletions", "Deletions that have ended.", "outcome")
        self._hooks = counter("hook_runs", "Runs of hooks that have ended.", "program", "outcome")
        self._requests = seconds(
            "rpc_request", "From a request to its answer.", _OF_REQUESTS, "method", "outcome"
        )
        self._under_way: dict[Action, _UnderWay] = {}
        self._sources: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Starts all known series at 0, because a later first value shows no growth."""
        for outcome in OUTCOMES:
            self._imports.labels(outcome)
        for code in CODES:
            self._failures.labels(code)
        for stage in STAGES:
            self._stages.labels(stage)
        for kind in ("installed", "joined"):
            self._hits.labels(kind)
        for outcome in ("deleted", "failed", "cancelled"):
            self._deletions.labels(outcome)

    # -- what happens ----------------------------------------------------------------------------------------

    def hear(self, event: StoreEvent) -> None:
        """Listens to an `EventStream`."""
        match event:
            case Started(action):
                if action.kind != "delete":
                    self._under_way[action] = _UnderWay(time.monotonic())
            case ImportEvent(_, document):
                if document["event"] == "resumed":
                    self._resumed.inc(document["size"])
            case Ended(action):
                if action.kind == "delete":
                    self._deletions.labels(event.outcome).inc()
                else:
                    self._ended(event)
            case Refused(_, _, error):
                self._count_outcome(outcome_of(error, "installed"), error)
            case HookEnded(program, outcome):
                self._hooks.labels(program, outcome).inc()
            case CacheHit(kind):
                self._hits.labels(kind).inc()

    def request(self, method: str, outcome: str, seconds: float) -> None:
        """Counts an answer."""
        self._requests.labels(method, outcome).observe(seconds)

    def _ended(self, event: Ended) -> None:
        began = self._under_way[event.action].began
        self._count_bytes(event.action, event.fetched)
        del self._under_way[event.action]
        self._count_outcome(event.outcome, event.error)
        self._seconds.observe(time.monotonic() - began)
        for stage, spent in event.stages:
            self._stages.labels(stage).observe(spent)

    def _count_outcome(self, outcome: Outcome, error: ImgstoreError | None) -> None:
        self._imports.labels(outcome).inc()
        if error is not None and outcome == "failed":
            self._failures.labels(error.code).inc()

    # -- bytes -----------------------------------------------------------------------------------------------

    def count_bytes(self, fetched: Mapping[Action, Mapping[str, int]]) -> None:
        """Brings the bytes of the imports under way up to date: those that came so far, by source."""
        for action, by_source in fetched.items():
            self._count_bytes(action, by_source)

    def _count_bytes(self, action: Action, fetched: Mapping[str, int]) -> None:
        counted = self._under_way[action].counted
        for source, total in fetched.items():
            self._bytes.labels(self._label(source)).inc(max(0, total - counted.get(source, 0)))
            counted[source] = total

    def _label(self, source: str) -> str:
        """The source's label. Clients may name sources: not every name of theirs gets a label."""
        if source not in self._sources:
            if len(self._sources) >= _MAX_SOURCES:
                return OTHER
            self._sources.add(source)
        return source


class WithoutCreated:
    """A registry without the times when its counters were created, which is when the daemon started."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
