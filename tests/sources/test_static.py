from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from imgstored.errors import ClientError
from imgstored.http.documents import Document
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import open_source
from imgstored.sources.server import AskLimits
from imgstored.sources.static import KEPT_SECONDS, StaticSource
from tests.sources.contract import OLD, OLD_MANIFEST, ImageServer, SourceContract
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_manifest

if TYPE_CHECKING:
    from pathlib import Path


class StaticServer(ImageServer):
    type = "static"

    def write_list(self, text: str) -> None:
        (self.root / "index.html").write_text(text)

    def folder(self, uuid: str) -> Path:
        return self.root / uuid


class TestContract(SourceContract):
    @pytest.fixture
    def server(self, site, start_nginx):
        return StaticServer(site, start_nginx)


@pytest.mark.parametrize("index", ["index nothing;", "autoindex on; index nothing;"])
async def test_the_list_may_be_index_html_alone(tmp_path, start_nginx, index):
    site = ImageSite(tmp_path / "images" / "below")
    site.add_fixtures()
    nginx = start_nginx(root=tmp_path / "images", locations={"= /below/": index})
    source = open_source(SourceSpec(f"{nginx.url}/below", "static"))
    assert len(await source.list()) == 3
    offer = await source.offer(BASE)
    assert offer is not None
    assert offer.location is not None
    assert offer.location.url == f"{nginx.url}/below/{BASE}/file"


async def test_a_query_goes_with_every_request(start_faulty):
    manifests = json.dumps([OLD_MANIFEST]).encode()
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, manifests))
    offer = await open_source(SourceSpec(f"{server.url}/a?key=1", "static")).offer(OLD)
    assert [request.target for request in server.requests] == ["/a/?key=1"]
    assert offer is not None
    assert offer.location is not None
    assert offer.location.url == f"{server.url}/a/{OLD}/old%201%25.zfs.bz2?key=1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowServer:
    """Answers each request after a second, with the next of its answers, the last one for ever."""

    def __init__(self, clock: Clock, *answers: bytes | ClientError) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked = 0

    async def fetch(self, location, *, limits, headers):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await trio.sleep(0.02)
        self.clock.now += 1
        if isinstance(answer, ClientError):
            raise answer
        return Document(200, {}, answer)


def slow_source(*answers: bytes | ClientError):
    clock = Clock()
    server = SlowServer(clock, *answers)
    source = StaticSource(
        SourceSpec("http://images.example", "static"), fetch=server.fetch, limits=AskLimits(), clock=clock
    )
    return source, server, clock


LIST = json.dumps([fixture_manifest(uuid) for uuid in (BASE, INCREMENTAL)]).encode()
LONGER = json.dumps([fixture_manifest(uuid) for uuid in (BASE, INCREMENTAL, ZVOL)]).encode()


async def test_an_ancestry_reads_the_list_once_and_later_ones_read_it_anew():
    source, server, clock = slow_source(LIST, LONGER)
    assert await source.offer(INCREMENTAL) is not None
    clock.now += KEPT_SECONDS / 2
    assert await source.offer(BASE) is not None
    assert await source.offer(ZVOL) is None
    assert server.asked == 1
    clock.now += KEPT_SECONDS
    assert await source.offer(ZVOL) is not None
    assert server.asked == 2


async def test_who_lists_sees_what_is_there_now():
    source, server, clock = slow_source(LIST, LONGER)
    assert len(await source.list()) == 2
    clock.now += 0.1
    assert len(await source.list()) == 3
    assert server.asked == 2


@pytest.mark.parametrize("answer", [LIST, ClientError("down")])
async def test_who_asks_at_the_same_time_shares_the_answer(answer):
    source, server, _ = slow_source(answer)
    ended: list[str] = []

    async def ask() -> None:
        try:
            await source.offer(BASE)
            ended.append("here")
        except ClientError as error:
            ended.append(error.message)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert ended == ["here" if isinstance(answer, bytes) else "down"] * 20
    assert server.asked == 1


async def test_a_failure_is_not_remembered():
    source, _, clock = slow_source(ClientError("down"), LIST)
    with pytest.raises(ClientError):
        await source.offer(BASE)
    clock.now += 0.1
    assert await source.offer(BASE) is not None


async def test_one_who_leaves_does_not_take_the_others_with_him(autojump_clock):
    source, _, _ = slow_source(LIST)
    offers = []

    async def ask() -> None:
        offers.append(await source.offer(BASE))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.01):
            async with trio.open_nursery() as first:
                first.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.start_soon(ask)
    assert [offer.manifest["uuid"] for offer in offers] == [BASE]
