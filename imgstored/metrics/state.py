"""The gauges of the daemon at the time of a scrape: imports under way, pools, clients."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from imgstored.errors import ConfigError
from imgstored.transfer.limiting import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgproto.documents import (
        JobDocument,
        LibraryStateDocument,
        PoolStateDocument,
        ServerStateDocument,
        SourceStateDocument,
    )
    from prometheus_client import Metric

    from imgstored.queries.status import PoolStates
    from imgstored.sources.source_set import SourceSet

#: The phases of an import under way.
PHASES: Final = ("waiting", "downloading", "receiving", "installing")


class State:
    """A collector: `look`, and then `collect`. For trio's thread."""

    def __init__(
        self,
        pools: PoolStates,
        sources: SourceSet,
        *,
        jobs: Callable[[], Sequence[JobDocument]],
        clients: Callable[[], int],
        view: Callable[[], str],
        library: Callable[[], LibraryStateDocument | None] = lambda: None,
        server: Callable[[], ServerStateDocument | None] = lambda: None,
    ) -> None:
        self._asked_pools = pools
        self._asked_sources = sources
        self._jobs = jobs
        self._clients = clients
        self._view = view
        self._library = library
        self._server = server
        self._pools: Sequence[PoolStateDocument] = ()
        self._sources: Sequence[SourceStateDocument] = ()

    async def look(self) -> None:
        """Asks what may take a moment. A pool that hangs is waited for no longer than its limit."""
        self._pools = await self._asked_pools.all()
        try:
            self._sources = await self._asked_sources.health()
        except ConfigError:  # imgadm's file cannot be read; requests for images say so
            self._sources = ()

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from self._imports()
        yield from self._of_pools()
        up = GaugeMetricFamily(
            "imgstored_source_up", "Whether a source answered when asked last.", labels=["source"]
        )
        for source in self._sources:
            if source["error"] is not None or source["answered_at"] is not None:
                up.add_metric([source["url"]], float(source["error"] is None))
        yield up
        yield GaugeMetricFamily("imgstored_clients", "Clients that are connected.", self._clients())
        yield from self._serving()
        yield InfoMetricFamily("imgstored_view", "How installed images are shown.", {"kind": self._view()})

    def _imports(self) -> Iterator[Metric]:
        jobs = self._jobs()
        phases = Counter(job["phase"] for job in jobs)
        slowest = Counter(job["limits"] for job in jobs)
        under_way = GaugeMetricFamily(
            "imgstored_imports_under_way", "Images that are being imported, by phase.", labels=["phase"]
        )
        for phase in PHASES:
            under_way.add_metric([phase], phases[phase])
        yield under_way
        limited = GaugeMetricFamily(
            "imgstored_imports_limited",
            "Images under way, by the stage that the others wait for.",
            labels=["stage"],
        )
        for stage in STAGES:
            limited.add_metric([stage], slowest[stage])
        yield limited
        rate = sum(job["rate"] for job in jobs)
        yield GaugeMetricFamily(
            "imgstored_download_bytes_per_second", "Compressed bytes that come a second, of late.", rate
        )

    def _serving(self) -> Iterator[Metric]:
        """Metrics of the library and of the image server, where there are any."""
        library, server = self._library(), self._server()
        if library is not None:
            yield GaugeMetricFamily("imgstored_library_images", "Images in the library.", library["images"])
            yield GaugeMetricFamily(
                "imgstored_library_bytes", "Bytes of all files of the library.", library["size"]
            )
            yield GaugeMetricFamily(
                "imgstored_library_kept_bytes", "Bytes of files that may be evicted.", library["kept"]
            )
            yield GaugeMetricFamily(
                "imgstored_library_budget_bytes", "Bytes that such files may have.", library["budget"]
            )
            yield CounterMetricFamily(
                "imgstored_library_evicted", "Files that were evicted.", library["evicted"]
            )
            yield GaugeMetricFamily(
                "imgstored_library_fetching", "Files on their way for other hosts.", library["fetching"]
            )
            yield CounterMetricFamily(
                "imgstored_library_fetched", "Files that came for other hosts.", library["fetched"]
            )
        if server is not None:
            yield GaugeMetricFamily(
                "imgstored_server_connections", "Connections of the image server.", server["connections"]
            )
            yield CounterMetricFamily(
                "imgstored_server_requests", "Requests to the image server.", server["requests"]
            )
            yield CounterMetricFamily(
                "imgstored_server_sent_bytes", "Bytes that the image server has sent.", server["sent_bytes"]
            )
            yield CounterMetricFamily(
                "imgstored_server_refused", "Connections that it has turned away.", server["refused"]
            )

    def _of_pools(self) -> Iterator[Metric]:
        def family(name: str, what: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"imgstored_{name}", what, labels=["pool"])

        up = family("pool_up", "Whether a pool answers within two seconds.")
        size = family("pool_size_bytes", "Room of a pool, used or not.")
        available = family("pool_available_bytes", "Room that is left in a pool.")
        used = family("pool_used_bytes", "Room that is used in a pool, by whatever.")
        images = family("images", "Images that are installed.")
        for pool in self._pools:
            label = [pool["name"]]
            up.add_metric(label, float(pool["error"] is None))
            images.add_metric(label, pool["images"])
            if pool["total"] is not None and pool["available"] is not None:
                size.add_metric(label, pool["total"])
                available.add_metric(label, pool["available"])
                used.add_metric(label, max(0, pool["total"] - pool["available"]))
        yield from (up, size, available, used, images)
