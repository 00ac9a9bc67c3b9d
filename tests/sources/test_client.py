"""What the client of a source remembers: how it did, and what it had."""

from __future__ import annotations

import itertools
import json

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
from imgstored.sources import client
from imgstored.sources.base import Listed, SourceSpec
from imgstored.sources.client import HealthLog, KeptList, LastLists, Question, SharedAnswer
from tests.support.image_site import BASE, ZVOL, fixture_manifest

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
    with Question(SPEC, health, client._OF_THE_IMAGE) as question:
        raise error
    assert question.error is error
    assert noted(health) == (1.0, None, None)
    assert await ask(health, error) is error
    assert noted(health) == (1.0, 2.0, error.message)


async def test_a_mistake_of_ours_is_an_error(health):
    assert (await ask(health, KeyError("x"))).code == "InternalError"
    assert noted(health)[2] == "a fault in imgstored: a query of a source failed"


def test_nothing_secret_is_told(health):
    wire = health.of(SPEC).as_wire(SPEC, listed_at=5.0)
    assert wire["url"] == "http://h/a?channel=dev"
    assert wire["listed_at"] == 5.0


async def test_another_channel_of_it_is_the_same_server(health):
    await ask(health, ClientError("refused"), SourceSpec("http://h"))
    assert noted(health, SourceSpec("http://h", channel="dev"))[2] == "refused"
    assert noted(health, SourceSpec("http://h", "static"))[2] is None


async def test_what_clients_name_does_not_pile_up(health, monkeypatch):
    monkeypatch.setattr(client, "_KNOWN", 3)
    await ask(health)
    for number in range(10):
        await ask(health, spec=SourceSpec(f"http://{number}"))
    assert len(health._known) == 3
    assert noted(health) == (None, None, None)


async def test_a_question_that_is_cancelled_is_no_answer(health):
    with trio.CancelScope() as scope:
        scope.cancel()
        await ask(health)
    assert scope.cancelled_caught
    assert noted(health) == (None, None, None)


# -- what it had ---------------------------------------------------------------------------------------------

CHANNEL = SourceSpec("https://images.example?channel=dev")
IMAGES = [Listed(fixture_manifest(uuid), CHANNEL.url) for uuid in (BASE, ZVOL)]
TIME = "2026-11-24T00:00:00+00:00"
KEPT = KeptList(IMAGES, TIME, "it may be cut")


@pytest.fixture
def lists(tmp_path):
    return LastLists(tmp_path / "lists")


def only_file(tmp_path):
    (path,) = (tmp_path / "lists").iterdir()
    return path


def test_what_was_saved_comes_back(lists):
    assert lists.load(CHANNEL) is None
    lists.save(CHANNEL, KEPT)
    assert lists.load(CHANNEL) == KEPT
    lists.save(CHANNEL, KeptList(IMAGES[:1], TIME))
    assert lists.load(CHANNEL) == KeptList(IMAGES[:1], TIME)


def test_a_list_of_an_older_daemon_says_nothing_of_what_it_lacks(lists, tmp_path):
    lists.save(CHANNEL, KEPT)
    content = json.loads(only_file(tmp_path).read_bytes())
    del content["incomplete"]
    only_file(tmp_path).write_text(json.dumps(content))
    assert lists.load(CHANNEL) == KeptList(IMAGES, TIME)


def test_each_source_has_its_own(lists, tmp_path):
    others = [
        SourceSpec(CHANNEL.url, "static"),
        SourceSpec(CHANNEL.url, insecure=True),
        SourceSpec(CHANNEL.url, channel="x"),
    ]
    for spec in [CHANNEL, *others]:
        lists.save(spec, KeptList(IMAGES, spec.type))
    assert len(list((tmp_path / "lists").iterdir())) == 4
    lists.drop_others([CHANNEL])
    assert [lists.load(spec) is None for spec in [CHANNEL, *others]] == [False, True, True, True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        json.dumps({"listed_at": TIME, "manifests": {}}).encode(),
        json.dumps({"listed_at": 1, "manifests": []}).encode(),
        json.dumps({"listed_at": TIME, "manifests": [1]}).encode(),
        json.dumps({"listed_at": TIME, "manifests": [{"uuid": "../x"}]}).encode(),
    ],
)
def test_a_damaged_file_is_as_good_as_none(lists, tmp_path, content):
    lists.save(CHANNEL, KEPT)
    only_file(tmp_path).write_bytes(content)
    assert lists.load(CHANNEL) is None
    lists.save(CHANNEL, KEPT)
    assert lists.load(CHANNEL) == KEPT


def test_a_list_that_is_too_large_is_not_saved_nor_an_older_one(lists, tmp_path, monkeypatch):
    lists.save(CHANNEL, KEPT)
    monkeypatch.setattr(client, "MAX_LIST", 1000)
    assert lists.load(CHANNEL) is None
    lists.save(CHANNEL, KEPT)
    assert list((tmp_path / "lists").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_no_error(lists, tmp_path):
    (tmp_path / "lists").write_text("a file")
    lists.save(CHANNEL, KEPT)
    assert lists.load(CHANNEL) is None
    lists.drop_others([])


# -- one answer for all who ask ------------------------------------------------------------------------------


class Slow:
    """A question that is answered when a test says so."""

    def __init__(self):
        self.asked = 0
        self.release = trio.Event()

    async def __call__(self):
        self.asked += 1
        number = self.asked
        await self.release.wait()
        return f"answer {number}"


async def test_those_who_ask_meanwhile_get_the_answer_that_comes():
    question, shared, answers = Slow(), SharedAnswer(), []

    async def ask_it() -> None:
        answers.append(await shared.get(question))

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(ask_it)
        await trio.testing.wait_all_tasks_blocked()
        assert question.asked == 1
        question.release.set()
    assert answers == ["answer 1"] * 64
    # Who comes later asks anew, and nothing is kept.
    assert await shared.get(question) == "answer 2"
    assert shared._answer is None


async def test_where_who_asks_leaves_the_next_one_asks():
    question, shared, answers = Slow(), SharedAnswer(), []

    async def ask_it() -> None:
        answers.append(await shared.get(question))

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leave() -> None:
            with scope:
                await ask_it()

        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask_it)
        nursery.start_soon(ask_it)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        question.release.set()
    assert answers == ["answer 2"] * 2


async def test_a_server_that_fails_or_answers_again_is_heard_of_once():
    heard = []
    health = HealthLog(changed=lambda url, error: heard.append((url, error and error.message)))
    await ask(health)
    assert heard == []
    for _ in range(2):
        await ask(health, ClientError("refused"))
    for _ in range(2):
        await ask(health)
    await ask(health, ClientError("again"))
    url = "http://h/a?channel=dev"  # for people
    assert heard == [(url, "refused"), (url, None), (url, "again")]
