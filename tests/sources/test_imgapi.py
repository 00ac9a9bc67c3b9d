from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from imgstored.errors import APIError, ClientError
from imgstored.http.documents import Document, DocumentLimits
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import open_source
from imgstored.sources.server import AskLimits
from tests.sources.contract import OLD_MANIFEST, UNKNOWN, ImageServer, SourceContract
from tests.support.image_site import BASE, fixture_manifest

if TYPE_CHECKING:
    from pathlib import Path


class ImgapiServer(ImageServer):
    type = "imgapi"
    locations = {  # noqa: RUF012
        "= /images": "try_files /images.json =404;",
        "~ ^/images/([^/]+)$": "try_files /images/$1/manifest.json =404;",
    }
    old_file_name = "file"  # IMGAPI's place, whatever the manifest says

    def prepare(self) -> None:
        (self.root / "ping").write_text('{"ping": "pong", "imgapi": true}')

    def write_list(self, text: str) -> None:
        (self.root / "images.json").write_text(text)

    def folder(self, uuid: str) -> Path:
        return self.root / "images" / uuid


class TestContract(SourceContract):
    @pytest.fixture
    def server(self, site, start_nginx):
        return ImgapiServer(site, start_nginx)


def images(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"v": 2, "uuid": f"33333333-aaaa-4bbb-8ccc-{number:012x}"} for number in range(start, start + count)
    ]


def opened(url: str, **settings: object):
    return open_source(SourceSpec(url, **settings))


def served_by_pages(known: list[dict[str, object]], most: int = 1000):
    """An IMGAPI that gives at most so many images, beginning with the marker."""

    def answer(request, wire):
        query = parse_qs(urlsplit(request.target).query)
        uuids = [image["uuid"] for image in known]
        start = uuids.index(query["marker"][0]) if "marker" in query else 0
        wire.reply(
            "200 OK", {}, json.dumps(known[start : start + min(most, int(query["limit"][0]))]).encode()
        )

    return answer


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (999, 2), (1000, 2), (1001, 3), (2500, 4)])
async def test_a_long_list_comes_in_pages(start_faulty, count, requests):
    known = images(count)
    server = start_faulty(served_by_pages(known))
    assert [dict(image.manifest) for image in await opened(server.url).list()] == known
    assert len(server.requests) == requests


@pytest.mark.parametrize("most", [2, 50, 999])
async def test_a_server_that_gives_fewer_than_it_is_asked_for(start_faulty, most):
    known = images(most + 60)
    server = start_faulty(served_by_pages(known, most))
    assert [dict(image.manifest) for image in await opened(server.url).list()] == known


async def test_a_server_that_does_not_know_the_question_for_more(start_faulty):
    known = images(5)

    def answer(request, wire):
        if "marker" in request.target:
            wire.reply("400 Bad Request", {}, b"what?")
        else:
            wire.reply("200 OK", {}, json.dumps(known).encode())

    assert len(await opened(start_faulty(answer).url).list()) == 5


async def test_a_full_page_that_cannot_be_turned_is_no_list(start_faulty):
    def answer(request, wire):
        if "marker" in request.target:
            wire.reply("400 Bad Request", {}, b"what?")
        else:
            wire.reply("200 OK", {}, json.dumps(images(1000)).encode())

    with pytest.raises(APIError, match="what"):
        await opened(start_faulty(answer).url).list()


def without_pages(known: list[dict[str, object]], most: int, refusal: str | None = None):
    """An IMGAPI that gives at most so many images, and ignores or refuses the marker."""

    def answer(request, wire):
        query = parse_qs(urlsplit(request.target).query)
        if "marker" in query and refusal is not None:
            wire.reply(refusal, {}, b"what?")
        else:
            wire.reply("200 OK", {}, json.dumps(known[: min(most, int(query["limit"][0]))]).encode())

    return answer


@pytest.mark.parametrize(
    ("most", "refusal"),
    [(50, None), (50, "400 Bad Request"), (50, "503 Service Unavailable"), (1000, None)],
)
async def test_a_list_that_may_be_cut_is_said(start_faulty, most, refusal):
    source = opened(start_faulty(without_pages(images(2000), most, refusal)).url)
    assert len(await source.list()) == most
    assert source.incomplete == (
        f"the list of {source.spec.url} may be cut: the server gives {most} images, and no further pages"
    )


@pytest.mark.parametrize("count", [0, 1, 7, 1500])
async def test_a_server_that_ignores_how_many_it_is_asked_for_has_given_all(start_faulty, count):
    known = images(count)
    source = opened(
        start_faulty(lambda request, wire: wire.reply("200 OK", {}, json.dumps(known).encode())).url
    )
    assert len(await source.list()) == count
    assert source.incomplete == ""


@pytest.mark.parametrize("most", [2, 50, 1000])
async def test_a_list_that_breaks_off_between_pages_is_no_list(start_faulty, most):
    """It would be kept as the source's last good one."""
    pages = served_by_pages(images(3000), most)
    asked = 0

    def answer(request, wire):
        nonlocal asked
        asked += 1
        if asked > 2:
            wire.reply("500 Internal Server Error", {}, b"broken")
        else:
            pages(request, wire)

    with pytest.raises(APIError, match="broken"):
        await opened(start_faulty(answer).url).list()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("places", [{49}, {50}, {48, 49, 50}, {0, 99}, set(range(50, 100))])
async def test_damaged_manifests_at_the_edges_of_pages_hide_no_others(start_faulty, places, named):
    known = images(120)
    texts = [json.dumps(image) for image in known]
    for place in places:
        texts[place] = json.dumps({**(known[place] if named else {}), "n": []}).replace("[]", "1e999")

    def answer(request, wire):
        query = parse_qs(urlsplit(request.target).query)
        uuids = [image["uuid"] for image in known]
        start = uuids.index(query["marker"][0]) + 1 if "marker" in query else 0
        wire.reply("200 OK", {}, f"[{','.join(texts[start : start + 50])}]".encode())

    source = opened(start_faulty(answer).url)
    listed = {image.manifest["uuid"] for image in await source.list()}
    if len(places) == 50 and not named:
        # Nothing of this page says where to go on.
        assert len(listed) == 50
        assert "may be cut" in (source.incomplete or "")
        return
    assert listed == {image["uuid"] for place, image in enumerate(known) if place not in places}
    assert "left out" in (source.incomplete or "")
    if named:
        number = "1 entry" if len(places) == 1 else f"{len(places)} entries"
        assert (source.incomplete or "").startswith(f"{number} of the list")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\n<!DOCTYPE html><html></html>", "not what an image server says, but a web page"),
        (b"<?xml version='1.0'?><Error/>", "but XML"),
        (b"", "but empty"),
        (b"pong", "says: Expecting value"),
    ],
)
async def test_a_server_that_is_no_image_server(start_faulty, body, words):
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, body))
    with pytest.raises(APIError, match=words) as caught:
        await opened(server.url).ping()
    # Also shown under the name imgadm: it names no program.
    assert "`sources -a URL -t" in caught.value.hint
    assert "imgctl" not in caught.value.hint


async def test_a_server_without_pages_is_not_asked_for_ever(start_faulty):
    known = images(1500)
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, json.dumps(known).encode()))
    assert len(await opened(server.url).list()) == 1500
    assert len(server.requests) == 2


async def test_a_list_without_end_is_refused():
    asked = 0

    async def fetch(location, *, limits, headers):
        nonlocal asked
        asked += 1
        return Document(200, {}, json.dumps(images(1000, 1000 * asked)).encode())

    with pytest.raises(APIError, match="does not end"):
        await open_source(SourceSpec("http://h"), fetch=fetch).list()
    assert asked == 100


async def test_a_list_has_a_time_limit_over_all_pages(start_faulty):
    known = images(5000)
    pages = served_by_pages(known)

    def answer(request, wire):
        wire.stall(0.2)
        pages(request, wire)

    limits = AskLimits(listing=DocumentLimits(total_seconds=0.5))
    source = open_source(SourceSpec(start_faulty(answer).url), limits=limits)
    with pytest.raises(ClientError, match=r"within 0\.5 s"):
        await source.list()


async def test_the_channel_goes_with_every_request(start_faulty):
    def answer(request, wire):
        path = urlsplit(request.target).path
        body = {"/ping": {"imgapi": True}, "/images": []}.get(path, fixture_manifest(BASE))
        wire.reply("200 OK", {}, json.dumps(body).encode())

    server = start_faulty(answer)
    for spec, channel in (
        (SourceSpec(f"{server.url}?channel=dev"), "dev"),
        (SourceSpec(f"{server.url}?channel=dev", channel="a&b"), "a%26b"),
        (SourceSpec(f"{server.url}/x?token=1", channel="dev"), "dev"),
    ):
        source = open_source(spec)
        await source.ping() if "/x" not in spec.url else None
        await source.list() if "/x" not in spec.url else None
        offer = await source.offer(BASE)
        assert offer is not None
        assert offer.location is not None
        assert f"channel={channel}" in offer.location.url
        assert urlsplit(offer.location.url).path.endswith(f"/images/{BASE}/file")
        assert all(f"channel={channel}" in request.target for request in server.requests)
        assert all(request.headers["accept-version"] == "~2" for request in server.requests)
        server.requests.clear()
    assert offer.location.url == f"{server.url}/x/images/{BASE}/file?token=1&channel=dev"


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (
            "422 Unprocessable Entity",
            "application/json",
            {
                "code": "ValidationFailed",
                "message": "bad\nchannel",
                "errors": [{"field": "channel", "code": "Invalid"}],
            },
            "bad channel\n    channel: Invalid",
        ),
        ("403 Forbidden", "application/json", {"code": "OperatorOnly", "message": "no", "errors": 7}, "no"),
        ("418 I'm a teapot", "application/json", {"code": "X", "message": None}, "418 I'm a Teapot"),
        ("400 Bad Request", "text/plain; charset=utf-8", "Not\x1b[31m  found\n", "Not?[31m found"),
        ("403 Forbidden", "text/html", "<html><h1>nginx</h1>", "403 Forbidden"),
        ("403 Forbidden", "text/plain", "x" * 100_000, "403 Forbidden"),
        ("299 Odd", "text/plain", "", "299"),
        ("204 No Content", "text/plain", "", "204 No Content"),
    ],
)
async def test_an_error_is_told_in_the_servers_words(start_faulty, status, kind, body, message):
    text = body if isinstance(body, str) else json.dumps(body)
    server = start_faulty(lambda request, wire: wire.reply(status, {"Content-Type": kind}, text.encode()))
    with pytest.raises(APIError) as caught:
        await opened(f"{server.url}").offer(UNKNOWN)
    assert caught.value.message == f"{server.url}/images/{UNKNOWN}: {message}"
    code = {} if isinstance(body, str) else {"server_code": body["code"]}
    assert caught.value.data == {"status": int(status[:3]), **code}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"pong", b'{"ping": "pong"}', b'{"imgapi": false}', b"\xff" * 100]
)
async def test_a_ping_must_say_imgapi(start_faulty, body):
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, body))
    with pytest.raises(APIError) as caught:
        await opened(server.url).ping()
    assert "-t static" in caught.value.hint


@pytest.mark.parametrize(("status", "is_another"), [("404 Not Found", True), ("503 Unavailable", False)])
async def test_a_server_without_a_ping_may_be_of_another_type(start_faulty, status, is_another):
    server = start_faulty(lambda request, wire: wire.reply(status, {}, b"<h1>nothing here</h1>"))
    with pytest.raises(APIError) as caught:
        await opened(server.url).ping()
    assert ("-t static" in caught.value.hint) is is_another


@pytest.mark.parametrize("uuid", [UNKNOWN, None, "x" * 5000, "\x1b]0;\x07"])
async def test_the_manifest_of_another_image_is_refused(start_faulty, uuid):
    body = json.dumps({**fixture_manifest(BASE), "uuid": uuid}).encode()
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, body))
    with pytest.raises(APIError, match="another image") as caught:
        await opened(server.url).offer(BASE)
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


async def test_the_file_is_where_imgapi_has_it_whatever_the_manifest_says(start_faulty):
    manifest = {**OLD_MANIFEST, "files": [{**OLD_MANIFEST["files"][0], "url": "http://elsewhere.example/"}]}
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, json.dumps(manifest).encode()))
    offer = await opened(server.url).offer(manifest["uuid"])
    assert offer is not None
    assert offer.location is not None
    assert offer.location.url == f"{server.url}/images/{manifest['uuid']}/file"


async def test_a_manifest_that_is_too_large_is_not_read(start_nginx, site):
    (site / "images").mkdir()
    with (site / "images" / BASE).open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(ClientError, match="larger than"):
        await opened(start_nginx().url).offer(BASE)
