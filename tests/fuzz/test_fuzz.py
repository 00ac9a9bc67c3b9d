"""The fuzzers' short runs: the seeds, inputs made of them, and all at which a target once failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutation import inputs
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"

#: Inputs of one target: a second or two of each.
COUNT = 400


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_made_of_seeds(name: str):
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for data in inputs(seeds, COUNT, seed=20261129):
        target.run(data)


def test_what_was_found():
    for path in sorted(FOUND.glob("*/*")):
        TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "stream",
        "rpc",
        "manifest",
        "token",
        "http-answer",
        "http-range",
        "index",
        "layer",
        "registry",
        "delta-index",
    ],
)
def test_the_seeds_reach_what_they_are_for(name: str, monkeypatch):
    """A target that takes nothing would never fail."""
    reached = {"stream": "StreamReader", "rpc": "checked", "manifest": "load", "token": "parse_token",
               "http-answer": "read_reply", "http-range": "WholeResponse", "index": "parse_index",
               "layer": "apply", "registry": "layer_images",
               "delta-index": "parse_delta_index"}[name]  # fmt: skip
    calls = []
    whole = getattr(__import__("tests.fuzz.targets", fromlist=["x"]), reached)

    def counted(*arguments, **named):
        made = whole(*arguments, **named)
        calls.append(made)
        return made

    monkeypatch.setattr(f"tests.fuzz.targets.{reached}", counted)
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)
    assert calls
