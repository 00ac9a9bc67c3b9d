"""What happens is counted, once, and with a bounded number of names."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imgstored.errors import CancelledError, DownloadError, ImageHeldError
from imgstored.events.stream import (
    Action,
    CacheHit,
    Ended,
    ImportEvent,
    Refused,
    Requester,
    Started,
    outcome_of,
)
from imgstored.metrics.counts import OTHER, Counts, WithoutCreated
from tests.support.events import Resumed
from tests.support.image_site import BASE


def told(counts: Counts) -> dict[tuple[str, tuple[str, ...]], float]:
    """All samples, by name and the values of labels in the order of their names."""
    text = generate_latest(WithoutCreated(counts.registry)).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


CLIENT = Requester("test", 1000)


def begun(counts: Counts, kind="import") -> Action:
    action = Action(kind, BASE, "base", "1.0.0", "zones", "http://h", "0a1b2c3d")
    counts.hear(Started(action, CLIENT))
    return action


def ended(counts: Counts, error=None, *, stopping=False) -> None:
    outcome = outcome_of(error, "installed", stopping=stopping)
    counts.hear(Ended(begun(counts), outcome, error, 1000, stages=(("network", 1.0),)))


@pytest.mark.parametrize(
    ("error", "stopping", "outcome"),
    [
        (None, False, "installed"),
        (DownloadError("no"), False, "failed"),
        (CancelledError("x"), False, "cancelled"),
        (CancelledError("x"), True, "interrupted"),
    ],
)
def test_an_import_is_counted_by_its_outcome(error, stopping, outcome):
    counts = Counts()
    before = told(counts)
    ended(counts, error, stopping=stopping)
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


def test_bytes_are_counted_while_they_come_and_no_byte_twice():
    counts = Counts()
    action = begun(counts)
    counts.hear(ImportEvent(action, Resumed(BASE, 7, 1000)))
    counts.count_bytes({action: {"h": 100}})
    assert told(counts)["imgstored_source_bytes_total", ("h",)] == 100
    counts.count_bytes({action: {"h": 300, "other_host": 5}})
    assert told(counts)["imgstored_source_bytes_total", ("h",)] == 300
    counts.hear(Ended(action, "installed", fetched={"h": 400, "other_host": 5}))
    after = told(counts)
    assert after["imgstored_source_bytes_total", ("h",)] == 400
    assert after["imgstored_source_bytes_total", ("other_host",)] == 5
    assert after["imgstored_resumed_bytes_total", ()] == 7


def test_clients_that_name_many_sources_make_no_more_metrics():
    counts = Counts()
    counts.hear(Ended(begun(counts), "installed", fetched={f"host{number}": 1 for number in range(1000)}))
    sources = {
        key[1][0]: value for key, value in told(counts).items() if key[0] == "imgstored_source_bytes_total"
    }
    assert len(sources) == 51
    assert sources[OTHER] == 950


def test_an_import_that_does_not_begin_is_a_failure():
    counts = Counts()
    for error in (DownloadError("no"), CancelledError("no")):
        action = Action("import", BASE, "", "", "zones")
        counts.hear(Refused(action, CLIENT, error))
    after = told(counts)
    assert after["imgstored_imports_total", ("failed",)] == 1
    assert after["imgstored_imports_total", ("cancelled",)] == 1
    assert after["imgstored_import_failures_total", ("DownloadError",)] == 1
    assert after["imgstored_import_seconds_count", ()] == 0


def test_deletions():
    counts = Counts()
    for error in (None, ImageHeldError(BASE, ["x"]), CancelledError("x")):
        counts.hear(Ended(begun(counts, "delete"), outcome_of(error, "deleted"), error))
    after = told(counts)
    assert [after["imgstored_deletions_total", (each,)] for each in ("deleted", "failed", "cancelled")] == [
        1,
        1,
        1,
    ]
    assert after["imgstored_import_seconds_count", ()] == 0


def test_requests_and_hits():
    counts = Counts()
    counts.request("list", "ok", 0.004)
    counts.request("list", "PoolError", 40.0)
    counts.hear(CacheHit("joined"))
    after = told(counts)
    assert after["imgstored_rpc_request_seconds_count", ("list", "ok")] == 1
    assert after["imgstored_rpc_request_seconds_sum", ("list", "PoolError")] == 40
    assert after["imgstored_rpc_request_seconds_bucket", ("0.005", "list", "ok")] == 1
    assert after["imgstored_rpc_request_seconds_bucket", ("0.0025", "list", "ok")] == 0
    assert [after["imgstored_cache_hits_total", (kind,)] for kind in ("installed", "joined")] == [0, 1]


def test_two_daemons_in_one_process_do_not_meet():
    one, other = Counts(), Counts()
    one.hear(CacheHit("joined"))
    assert told(other)["imgstored_cache_hits_total", ("joined",)] == 0
