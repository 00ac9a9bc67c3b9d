"""What is noted of a server's health, and how often others hear of it."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from imgstored.errors import (
    APIError,
    BadContentError,
    ClientError,
    InvalidManifestError,
    ManifestValidationError,
    UntrustedImageError,
)
from imgstored.sources import health as health_module
from imgstored.sources.base import SourceSpec
from imgstored.sources.health import HealthLog, Question

SPEC = SourceSpec("http://user:secret@h/a?token=secret&channel=dev")


@pytest.fixture
def health():
    ticks = itertools.count(1)
    return HealthLog(lambda: float(next(ticks)))


async def ask(health, error=None, spec=SPEC):
    with Question(spec, health) as question:
        await trio.lowlevel.checkpoint()
        if error is not None:
            raise error
    return question.error


def noted(health, spec=SPEC):
    wire = health.of(spec).as_wire(spec, listed_at=None)
    return wire["answered_at"], wire["failed_at"], wire["error"] and wire["error"]["message"]


async def test_an_answer_a_failure_and_an_answer(health):
    assert noted(health) == (None, None, None)
    assert await ask(health) is None
    assert noted(health) == (1.0, None, None)
    error = ClientError("refused")
    assert await ask(health, error) is error
    assert noted(health) == (1.0, 2.0, "refused")
    assert await ask(health, APIError("broken")) is not None
    assert noted(health) == (1.0, 3.0, "broken")
    await ask(health)
    assert noted(health) == (4.0, 3.0, None)


@pytest.mark.parametrize("error", [InvalidManifestError("bad"), ManifestValidationError("bad")])
async def test_a_bad_image_is_no_bad_source(health, error):
    assert await ask(health, error) is error
    assert noted(health) == (1.0, None, None)


@pytest.mark.parametrize("error", [BadContentError("bad"), UntrustedImageError("unsigned")])
async def test_a_bad_image_of_a_registry_is_a_bad_list_of_it(health, error):
    """An image that is damaged says nothing of the registry; a list is the registry's own."""
    with Question(SPEC, health, health_module.OF_THE_IMAGE) as question:
        raise error
    assert question.error is error
    assert noted(health) == (1.0, None, None)
    assert await ask(health, error) is error
    assert noted(health) == (1.0, 2.0, error.message)


async def test_a_mistake_of_ours_is_an_error(health):
    assert (await ask(health, KeyError("x"))).code == "InternalError"
    assert noted(health)[2] == "a query of a source failed because of a fault in imgstored"


def test_nothing_secret_is_told(health):
    wire = health.of(SPEC).as_wire(SPEC, listed_at=5.0)
    assert wire["url"] == "http://h/a?channel=dev"
    assert wire["listed_at"] == 5.0


async def test_another_channel_of_it_is_the_same_server(health):
    await ask(health, ClientError("refused"), SourceSpec("http://h"))
    assert noted(health, SourceSpec("http://h", channel="dev"))[2] == "refused"
    assert noted(health, SourceSpec("http://h", "static"))[2] is None


async def test_what_clients_name_does_not_pile_up(health, monkeypatch):
    monkeypatch.setattr(health_module, "_KNOWN", 3)
    await ask(health)
    for number in range(10):
        await ask(health, spec=SourceSpec(f"http://{number}"))
    assert len(health._known) == len(health._told) == 3
    assert noted(health) == (None, None, None)


async def test_a_question_that_is_cancelled_is_no_answer(health):
    with trio.CancelScope() as scope:
        scope.cancel()
        await ask(health)
    assert scope.cancelled_caught
    assert noted(health) == (None, None, None)


# -- who hears of it -----------------------------------------------------------------------------------------

URL = "http://h/a?channel=dev"  # for people


@pytest.fixture
def heard():
    return []


@pytest.fixture
async def told(heard, nursery):
    """A health log whose changes are heard."""
    health = HealthLog(changed=lambda url, error: heard.append((url, error and error.message)))
    nursery.start_soon(health.run)
    return health


async def test_a_server_that_fails_or_answers_again_is_heard_of_once(told, heard):
    await ask(told)
    assert heard == []
    for _ in range(2):
        await ask(told, ClientError("refused"))
    for _ in range(2):
        await ask(told)
    await ask(told, ClientError("again"))
    assert heard == [(URL, "refused"), (URL, None), (URL, "again")]


async def test_whoever_makes_a_server_fail_at_will_is_not_heard_each_time(told, heard, autojump_clock):
    for _ in range(1000):
        await ask(told, ClientError("refused"))
        await ask(told)
        await trio.sleep(1)
    # In 1000 seconds: what may be told at once, and the same again after ten minutes.
    assert [message for _, message in heard] == ["refused", None] * 4
    assert noted(told)[2] is None
    # What had to wait is told, if it is still so, though nobody asks any more.
    await ask(told, ClientError("for good"))
    assert noted(told)[2] == "for good"
    assert len(heard) == 8
    await trio.sleep(600)
    assert heard[8:] == [(URL, "for good")]
    await trio.sleep(6000)
    assert len(heard) == 9


async def test_what_is_so_no_more_by_then_is_not_told(told, heard, autojump_clock):
    for _ in range(3):
        await ask(told, ClientError("refused"))
        await ask(told)
    assert len(heard) == 4
    await ask(told, ClientError("refused"))
    await ask(told)
    await trio.sleep(6000)
    assert len(heard) == 4


async def test_each_server_has_its_own_bound(told, heard):
    for _ in range(10):
        await ask(told, ClientError("refused"))
        await ask(told)
    assert len(heard) == 4
    other = SourceSpec("http://other")
    await ask(told, ClientError("refused"), other)
    assert heard[4:] == [("http://other", "refused")]
