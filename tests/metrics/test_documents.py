"""docs/metrics.md has every metric, as it is, and the alert rules are about metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from imgproto.documents import LibraryStateDocument, ServerStateDocument

from imgstored.events.stream import HookEnded
from imgstored.metrics.counts import Counts, WithoutCreated
from imgstored.metrics.state import PHASES, State
from imgstored.transfer.limiting import STAGES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "metrics.md").read_text()
RULES = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]

JOB = {"phase": "waiting", "limits": None, "rate": 0.0}


LIBRARY = dict.fromkeys(LibraryStateDocument.__annotations__, 1)
SERVER = dict.fromkeys(ServerStateDocument.__annotations__, 1)


class Everything:
    """A host on which there is one of each."""

    async def all(self):
        return [{"name": "zones", "total": 1, "available": 1, "images": 1, "error": None}]

    async def health(self):
        return [{"url": "https://h", "error": None, "answered_at": 1.0}]


async def families():
    """All metrics, each with a sample of every kind."""
    counts = Counts()
    state = State(
        Everything(),
        Everything(),
        jobs=lambda: [JOB],
        clients=lambda: 1,
        view=lambda: "fuse",
        library=lambda: LIBRARY,
        server=lambda: SERVER,
    )
    counts.registry.register(state)
    counts.request("list", "ok", 1.0)
    counts._failures.labels("NoSpace").inc()
    counts._bytes.labels("h").inc()
    counts.hear(HookEnded("/bin/true", "ok"))
    await state.look()
    return {_name(family): family for family in WithoutCreated(counts.registry).collect()}


def _name(family) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def documented() -> dict[str, tuple[str, set[str], str]]:
    rows = [line[1:-1].split("|") for line in TEXT.splitlines() if line.startswith("| `")]
    found = {
        name.strip(" `"): (kind.strip(), set(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in rows
    }
    assert len(found) == len(rows)
    return found


async def test_the_table_has_every_metric_with_its_type_and_labels():
    there = {
        name: (
            "gauge" if family.type == "info" else family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for name, family in (await families()).items()
    }
    assert {name: (kind, labels) for name, (kind, labels, _) in documented().items()} == there


async def test_names_are_as_prometheus_wants_them():
    for name, family in (await families()).items():
        assert re.fullmatch(r"(imgstored|process)_[a-z_]+", name)
        assert (family.type == "counter") == name.endswith("_total")
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert name.endswith("_seconds")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("imgstored_import_stage_seconds", STAGES),
        ("imgstored_imports_under_way", PHASES),
        ("imgstored_imports_total", ("installed", "failed", "cancelled", "interrupted")),
        ("imgstored_cache_hits_total", ("installed", "joined")),
        ("imgstored_deletions_total", ("deleted", "failed", "cancelled")),
    ],
)
def test_every_value_of_a_label_is_explained(metric, words):
    assert set(words) <= set(re.findall(r"`(\w+)`", documented()[metric][2]))


async def test_alerts_ask_for_metrics_and_labels_that_there_are():
    there = await families()
    samples = {sample.name: set(sample.labels) for family in there.values() for sample in family.samples}
    for rule in RULES:
        asked = re.findall(r"\b((?:imgstored|process)_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert asked or rule["expr"].startswith("up{"), rule
        for name, matchers in asked:
            labels = set(re.findall(r"(\w+)[=!]", matchers or ""))
            assert labels <= samples[name] | {"job", "instance"}, rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert re.fullmatch(r"Imgstored[A-Za-z]+", rule["alert"])
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "action"}
    for opening, closing in ("()", "[]", "{}"):
        assert rule["expr"].count(opening) == rule["expr"].count(closing)


def test_alert_names_are_unique():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
