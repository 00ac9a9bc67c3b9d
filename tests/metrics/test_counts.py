"""What happens is counted, once, and with a bounded number of names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imgstored.errors import CancelledError, DownloadError, ImageHeldError
from imgstored.events.notifications import Resumed
from imgstored.events.stream import Recorders, Wanted
from imgstored.imports.layer import Layer
from imgstored.manifest import load
from imgstored.metrics.counts import OTHER, Counts, Told
from tests.support.image_site import BASE, fixture_manifest


def told(counts: Counts) -> dict[tuple[str, tuple[str, ...]], float]:
    """All samples, by name and the values of labels in the order of their names."""
    counts.count_bytes()
    text = generate_latest(Told(counts.registry)).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def a_layer() -> Layer:
    return Layer("zones", load(fixture_manifest(BASE), rules="import"), "http://h")


async def ended(counts, error=None, *, stopping=False):
    layer = a_layer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: counts.follow(layer, from_file=False, stopping=lambda: stopping))
        await trio.testing.wait_all_tasks_blocked()
        layer.end(error, from_file=False)


@pytest.mark.parametrize(
    ("error", "stopping", "outcome"),
    [
        (None, False, "installed"),
        (DownloadError("no"), False, "failed"),
        (CancelledError("x"), False, "cancelled"),
        (CancelledError("x"), True, "interrupted"),
    ],
)
async def test_an_import_is_counted_by_its_outcome(error, stopping, outcome):
    counts = Counts()
    before = told(counts)
    await ended(counts, error, stopping=stopping)
    after = told(counts)
    outcomes = ("installed", "failed", "cancelled", "interrupted")
    grown = [
        after["imgstored_imports_total", (each,)] - before["imgstored_imports_total", (each,)]
        for each in outcomes
    ]
    assert grown == [float(each == outcome) for each in outcomes]
    assert after.get(("imgstored_import_failures_total", ("DownloadError",)), 0) == (outcome == "failed")
    assert after["imgstored_import_seconds_count", ()] == 1
    assert after["imgstored_import_stage_seconds_count", ("network",)] == 1


async def test_an_import_is_followed_to_its_end_also_when_all_is_cancelled():
    counts, layer = Counts(), a_layer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: counts.follow(layer, from_file=False, stopping=lambda: True))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        layer.end(CancelledError("stopping"), from_file=False)
    assert told(counts)["imgstored_imports_total", ("interrupted",)] == 1


async def test_bytes_are_counted_while_they_come_and_no_byte_twice():
    counts, layer = Counts(), a_layer()
    fetched = {"h": 100}
    layer.fetched = lambda: fetched
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: counts.follow(layer, from_file=False, stopping=lambda: False))
        await trio.testing.wait_all_tasks_blocked()
        layer.emit(Resumed(BASE, 7, 1000))
        assert told(counts)["imgstored_source_bytes_total", ("h",)] == 100
        fetched.update(h=300, other_host=5)
        assert told(counts)["imgstored_source_bytes_total", ("h",)] == 300
        fetched["h"] = 400
        layer.end(None, from_file=False)
    after = told(counts)
    assert after["imgstored_source_bytes_total", ("h",)] == 400
    assert after["imgstored_source_bytes_total", ("other_host",)] == 5
    assert after["imgstored_resumed_bytes_total", ()] == 7


async def test_clients_that_name_many_sources_make_no_more_metrics():
    counts, layer = Counts(), a_layer()
    layer.fetched = lambda: {f"host{number}": 1 for number in range(1000)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: counts.follow(layer, from_file=False, stopping=lambda: False))
        await trio.testing.wait_all_tasks_blocked()
        layer.end(None, from_file=False)
    sources = {
        key[1][0]: value for key, value in told(counts).items() if key[0] == "imgstored_source_bytes_total"
    }
    assert len(sources) == 51
    assert sources[OTHER] == 950


async def test_an_import_that_does_not_begin_is_a_failure():
    counts = Counts()
    await counts.refused(Wanted("import", BASE, "zones"), DownloadError("no"))
    await counts.refused(Wanted("import", BASE, "zones"), CancelledError("no"))
    after = told(counts)
    assert after["imgstored_imports_total", ("failed",)] == 1
    assert after["imgstored_imports_total", ("cancelled",)] == 1
    assert after["imgstored_import_failures_total", ("DownloadError",)] == 1


async def test_deletions():
    counts = Counts()
    async with counts.deletion(SimpleNamespace()):
        pass
    with pytest.raises(ImageHeldError):
        async with counts.deletion(SimpleNamespace()):
            raise ImageHeldError(BASE, ["x"])
    with trio.CancelScope() as scope:
        async with counts.deletion(SimpleNamespace()):
            scope.cancel()
            await trio.sleep_forever()
    after = told(counts)
    assert [after["imgstored_deletions_total", (each,)] for each in ("deleted", "failed", "cancelled")] == [
        1,
        1,
        1,
    ]


def test_requests_and_hits():
    counts = Counts()
    counts.request("list", "ok", 0.004)
    counts.request("list", "PoolError", 40.0)
    counts.hit("joined")
    after = told(counts)
    assert after["imgstored_rpc_request_seconds_count", ("list", "ok")] == 1
    assert after["imgstored_rpc_request_seconds_sum", ("list", "PoolError")] == 40
    assert after["imgstored_rpc_request_seconds_bucket", ("0.005", "list", "ok")] == 1
    assert after["imgstored_rpc_request_seconds_bucket", ("0.0025", "list", "ok")] == 0
    assert [after["imgstored_cache_hits_total", (kind,)] for kind in ("installed", "joined")] == [0, 1]


async def test_several_recorders_are_told_all_of_it():
    first, second = Counts(), Counts()
    both = Recorders(first, second)
    await ended(both, DownloadError("no"))
    async with both.deletion(SimpleNamespace()):
        pass
    for counts in (first, second):
        assert told(counts)["imgstored_imports_total", ("failed",)] == 1
        assert told(counts)["imgstored_deletions_total", ("deleted",)] == 1


def test_two_daemons_in_one_process_do_not_meet():
    one, other = Counts(), Counts()
    one.hit("joined")
    assert told(other)["imgstored_cache_hits_total", ("joined",)] == 0
