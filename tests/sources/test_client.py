"""How a source did is remembered."""

from __future__ import annotations

import itertools

import pytest

from imgstored.errors import APIError, ClientError, InvalidManifestError, ManifestValidationError
from imgstored.sources import standing
from imgstored.sources.base import SourceSpec
from imgstored.sources.standing import Standings

SPEC = SourceSpec("http://user:secret@h/a?token=secret&channel=dev")


@pytest.fixture
def standings():
    ticks = itertools.count(1)
    return Standings(lambda: float(next(ticks)))


async def ask(standings, error=None, spec=SPEC):
    async def question():
        if error is not None:
            raise error

    return await standings.ask(spec, question())


def told(standings, spec=SPEC):
    wire = standings.of(spec).as_wire(spec, listed_at=None)
    return wire["answered_at"], wire["failed_at"], wire["error"] and wire["error"]["message"]


async def test_an_answer_a_failure_and_an_answer(standings):
    assert told(standings) == (None, None, None)
    assert await ask(standings) is None
    assert told(standings) == (1.0, None, None)
    error = ClientError("refused")
    assert await ask(standings, error) is error
    assert told(standings) == (1.0, 2.0, "refused")
    assert await ask(standings, APIError("broken")) is not None
    assert told(standings) == (1.0, 3.0, "broken")
    await ask(standings)
    assert told(standings) == (4.0, 3.0, None)


@pytest.mark.parametrize("error", [InvalidManifestError("bad"), ManifestValidationError("bad")])
async def test_a_bad_image_is_no_bad_source(standings, error):
    assert await ask(standings, error) is error
    assert told(standings) == (1.0, None, None)


async def test_a_mistake_of_ours_is_an_error(standings):
    assert (await ask(standings, KeyError("x"))).code == "InternalError"
    assert told(standings)[2] == "imgstored made a mistake in asking a source"


def test_nothing_secret_is_told(standings):
    wire = standings.of(SPEC).as_wire(SPEC, listed_at=5.0)
    assert wire["url"] == "http://h/a?channel=dev"
    assert wire["listed_at"] == 5.0


async def test_another_channel_of_it_is_the_same_server(standings):
    await ask(standings, ClientError("refused"), SourceSpec("http://h"))
    assert told(standings, SourceSpec("http://h", channel="dev"))[2] == "refused"
    assert told(standings, SourceSpec("http://h", "static"))[2] is None


async def test_what_clients_name_does_not_pile_up(standings, monkeypatch):
    monkeypatch.setattr(standing, "_KNOWN", 3)
    await ask(standings)
    for number in range(10):
        await ask(standings, spec=SourceSpec(f"http://{number}"))
    assert len(standings._known) == 3
    assert told(standings) == (None, None, None)
