"""A thousand sources, of which most are down, silent, or send rubbish. In virtual time."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import trio

from imgstored.errors import ActiveImageNotFoundError, ClientError
from imgstored.http import documents
from imgstored.http.documents import Document
from imgstored.http.location import Location
from imgstored.sources import source_set
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.image_site import BASE, fixture_manifest

MANY = 1000
#: Seconds that each of so many has, a little more.
SHARE = 2.1
UNKNOWN = "99999999-aaaa-4bbb-8ccc-000000000009"


class World:
    """Servers at addresses of which each third is down, silent, or sends rubbish; one has an image."""

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = self.most = 0
        self.longest = 0.0  # seconds that one was waited for

    async def answer(self, location, limits, headers, environ):
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        began = trio.current_time()
        try:
            await trio.sleep(0.001)
            number = int(location.url.split("/")[3])
            if number == MANY - 1:
                return Document(200, {}, json.dumps([fixture_manifest(BASE)]).encode())
            if number % 3 == 0:
                raise documents._NoAnswerError(f"{location.url}: Connection refused")
            if number % 3 == 1:
                await trio.sleep_forever()
            return Document(200, {}, b"<" * 10_000)
        finally:
            self.at_once -= 1
            self.longest = max(self.longest, trio.current_time() - began)


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(documents, "_follow", world.answer)
    return world


@pytest.fixture
def many(tmp_path, world):
    specs = [SourceSpec(f"http://127.0.0.1:1/{number}", "static") for number in range(MANY)]
    return SourceSet(
        specs, imgadm_conf=tmp_path / "conf", lists=tmp_path / "lists", now=lambda: datetime.now(UTC)
    )


def is_bounded(world):
    """So many at a time, and so long each: that bounds the whole. Of threads the clock knows nothing."""
    assert world.most <= source_set._AT_A_TIME
    assert world.longest < SHARE


async def test_the_last_one_that_has_the_image_is_found(many, world, autojump_clock):
    found = await many.find(BASE, active=True)
    assert found.source.url.endswith(f"/{MANY - 1}")
    is_bounded(world)


async def test_what_none_has_is_said_in_bounded_time_and_briefly(many, world, autojump_clock):
    with pytest.raises(ActiveImageNotFoundError) as caught:
        await many.find(UNKNOWN, active=True)
    is_bounded(world)
    error = caught.value
    assert "http://127.0.0.1:1/0, " in error.hint
    assert "and 996 more" in error.hint
    assert len(error.hint) < 300
    assert len(error.data["problems"]) <= 50


async def test_all_are_listed_and_checked_in_bounded_time(many, world, autojump_clock):
    await many.check()
    answer = await many.available()
    is_bounded(world)
    assert [image["manifest"]["uuid"] for image in answer["images"]] == [BASE]
    assert len(answer["problems"]) == MANY - 1
    silent = answer["problems"][1]
    assert silent["source"] in silent["error"]["message"]
    assert "no complete answer in its share of the time" in silent["error"]["message"]


async def test_few_sources_have_the_time_that_each_has_alone(tmp_path, world, autojump_clock):
    specs = [SourceSpec(f"http://127.0.0.1:1/{number}", "static") for number in (1, 4, MANY - 1)]
    few = SourceSet(specs, imgadm_conf=tmp_path / "conf", lists=tmp_path / "lists")
    answer = (await few.available())["problems"][0]
    assert "within 60 s" in answer["error"]["message"]


async def test_what_is_remembered_of_them_is_bounded(many, autojump_clock):
    await many.check()
    assert len(many._clients) <= source_set._CLIENTS
    health = many._health
    assert len(health._known) <= 256
    assert len(health._told) <= 256


async def test_all_documents_of_a_block_share_its_time(world, autojump_clock):
    location = Location("http://127.0.0.1:1/1", source="http://127.0.0.1:1/1")
    began = trio.current_time()
    with documents.all_within(5):
        for _ in range(3):
            with pytest.raises(ClientError, match="no complete answer"):
                await documents.fetch_document(location)
    assert trio.current_time() - began == pytest.approx(5, abs=0.1)
