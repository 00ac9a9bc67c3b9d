from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace

from imgstored.errors import ClientError
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import Access, Location
from imgstored.http.upload import Body, in_pieces, send

LIMITS = DocumentLimits(silence_seconds=5, total_seconds=5)


def at(url, **access):
    return Location(url, url, Access(**access))


@pytest.fixture
def echo(start_faulty):
    """Says 201, and keeps what it was asked."""
    return start_faulty(lambda request, wire: (wire.reply("201 Created", {}, b"made"), wire.close()))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_request_without_a_body(echo, method):
    answer = await send(method, at(f"{echo.url}/a?b=c", headers=(("X-Key", "k"),)), headers=[("Accept", "x")])
    assert (answer.status, answer.body) == (201, b"made")
    (request,) = echo.requests
    assert request.target == "/a?b=c"
    assert (request.headers["x-key"], request.headers["accept"]) == ("k", "x")
    assert request.headers.get("content-length") == (None if method == "DELETE" else "0")
    assert "transfer-encoding" not in request.headers


async def test_a_body_has_its_length(echo):
    await send("PUT", at(echo.url), Body(in_pieces(b"12345"), 5, "text/plain"))
    headers = echo.requests[0].headers
    assert (headers["content-length"], headers["content-type"]) == ("5", "text/plain")
    assert "transfer-encoding" not in headers


async def test_a_refusal_is_an_answer(start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("422 Unprocessable Entity", {}, b"{}"))
    assert (await send("POST", at(server.url))).status == 422


async def test_nothing_is_tried_again(start_faulty):
    server = start_faulty(lambda request, wire: wire.reset())
    with pytest.raises(ClientError, match=server.url):
        await send("POST", at(server.url))
    assert len(server.requests) == 1


async def test_what_the_content_raises_is_raised(echo):
    async def broken():
        yield b"123"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await send("PUT", at(echo.url), Body(broken(), 6))


async def test_the_clock_runs_from_the_end_of_the_body(start_faulty):
    server = start_faulty(lambda request, wire: wire.stall())

    async def slow():
        for _ in range(3):
            await trio.sleep(0.15)
            yield b"1"

    begun = trio.current_time()
    with pytest.raises(ClientError, match=r"no answer within 0\.2 s"):
        await send("PUT", at(server.url), Body(slow(), 3), limits=replace(LIMITS, total_seconds=0.2))
    assert trio.current_time() - begun > 0.6


async def test_a_large_answer_is_refused(start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, bytes(5000)))
    with pytest.raises(ClientError, match="larger than 4000 bytes"):
        await send("POST", at(server.url), limits=replace(LIMITS, max_bytes=4000))


async def test_a_header_that_would_be_two(echo):
    with pytest.raises(ClientError, match="cannot be sent"):
        await send("POST", at(echo.url, headers=(("X", "a\r\nY: b"),)))
    assert echo.requests == []
