"""The fuzzers' short runs: the seeds, inputs made of them, and all at which a target once failed."""

from __future__ import annotations

import time
from itertools import product
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


#: Of what a long input may consist: what a grammar repeats, begins, ends or escapes.
PIECES = [
    *(
        "a",
        "a,",
        "a=",
        'a="',
        '"\\',
        "\\",
        "\\\\",
        " ",
        "\t",
        ", ",
        "Bearer ",
        "a b ",
        "=",
        '"',
        "a=b,",
        "-",
        "_",
    ),
    *("a-", "a.", "/", ".", "[", "]", "[]", "1", "1-", "1-,", "0-0,", "%", "%25", "&", "a=b&", "?", "#", ":"),
    *("@", "a:", "a@", "http://", "\n", "a\n", "\r\n", "a: b\r\n", "\xe9", "\xff", "\x00", "\x80", "\x91"),
    *("\xdf", 'W/"', "{", "}", "[[", '{"a":', "0", "1e", '"",', "{},", "'", "&amp;", "0\r\n", "1\r\na\r\n"),
]

#: Bytes of such an input.
LONG = 6000

#: Without those whose inputs say how often a part is repeated; and without root's own configuration: tomllib
#: takes the square of the parts of one key.
OF_TEXT = sorted(TARGETS.keys() - {"stream", "volume", "rewriter", "writer", "layer", "configuration"})


@pytest.mark.parametrize("name", OF_TEXT)
def test_time_grows_as_the_input_does(name: str):
    """What takes the square of an input's size lets a server, or a client, stop the daemon."""
    target = TARGETS[name]

    def seconds(data: bytes) -> float:
        began = time.process_time()
        target.run(data)
        return time.process_time() - began

    beginnings = [b"", b"[", b"\0[", *(seed[:40] for seed in target.seeds()[:2])]
    for piece, beginning, end in product(PIECES, beginnings, (b"", b"!")):
        part = piece.encode("latin-1")
        part *= LONG // len(part)
        took = seconds(beginning + part + end)
        if took < 0.005:
            continue
        # It takes four times as long, or sixteen times. Where something else came between, once more.
        for _ in range(5):
            longer = seconds(beginning + 4 * part + end)
            if longer < 10 * took:
                break
            took = seconds(beginning + part + end)
        else:
            raise AssertionError((piece, beginning, end, took, longer))


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
