"""The figures of one import over all of its attempts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from imgstored.http.location import Location
from imgstored.imports.figures import Figures
from imgstored.transfer.stages import Stages


def download(fetched: int, *, done: int = 0) -> Any:
    mirror = SimpleNamespace(
        location=Location("http://a.example/file", source="http://a.example"), fetched=fetched
    )
    return SimpleNamespace(done=done, total=100, mirrors=[mirror], kept=3, connections=2)


def pump(*, compressed: int = 0, stream: int = 0) -> Any:
    return SimpleNamespace(compressed=compressed, stream=stream, consumed=compressed, verifies_first=True)


def test_what_earlier_attempts_fetched_still_counts():
    figures = Figures(Stages(), None, from_file=False)
    assert (figures.total, figures.done, figures.received, figures.kept) == (None, 0, 0, 0)
    figures.add_fetched({"b.example": 5})
    figures.begin_download(download(30, done=30), pump())
    figures.begin_download(download(12, done=20), pump(stream=7))
    assert figures.fetched == {"b.example": 5, "a.example": 42}
    assert (figures.total, figures.done, figures.received) == (100, 20, 7)
    assert (figures.kept, figures.connections) == (3, 2)
    assert figures.sample().came == 47


def test_of_a_file_that_is_here_nothing_is_fetched():
    figures = Figures(Stages(), None, from_file=True)
    figures.begin_file(pump(compressed=40), 80)
    assert (figures.total, figures.done, figures.fetched) == (80, 40, {})
    assert figures.sample().came == 40
    assert figures.sample().verified_first
