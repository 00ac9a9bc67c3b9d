"""What the client of a source remembers: what it had."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from imgstored.sources import client
from imgstored.sources.base import Listed, SourceSpec
from imgstored.sources.client import KeptList, LastLists, SharedAnswer
from tests.support.image_site import BASE, ZVOL, fixture_manifest

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
