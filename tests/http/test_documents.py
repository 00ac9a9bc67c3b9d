from __future__ import annotations

import contextlib
import gc
import gzip
import re
import socket
import subprocess
import sys
import threading
import zlib

import httpx2
import pytest
import trio
import trio.testing
from httpcore2._backends.trio import TrioStream
from msgspec.structs import replace

from imgstored import lanes
from imgstored.errors import ClientError
from imgstored.http.addresses import Nearness
from imgstored.http.documents import DocumentLimits, fetch_document, near_of
from imgstored.http.location import Access, Location
from tests.support.forward_proxy import ForwardProxy
from tests.support.socks_proxy import SocksProxy

SECRET = "do-not-print"


def at(url: str, **access: object) -> Location:
    return Location(url, url, Access(**access))


async def fetch(location: Location, environ: dict[str, str] | None = None, **limits: object):
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    try:
        document = await fetch_document(
            location, limits=DocumentLimits(**limits), environ=environ or {}, chance=lambda: 0.0, sleep=sleep
        )
    except ClientError as error:
        return error, naps
    return document, naps


@pytest.mark.parametrize(
    ("url", "near"), [("http://example.org/", Nearness.PUBLIC), ("http://127.0.0.1/", Nearness.LOOPBACK)]
)
async def test_a_server_that_has_left_is_as_near_as_its_name_says(url, near):
    """As after a reset, a socket that is not connected has no other end."""
    with trio.socket.socket() as alone:
        left = TrioStream(trio.SocketStream(alone))
        response = httpx2.Response(200, extensions={"network_stream": left})
        assert near_of(response, at(url), {}) is near


async def test_a_document_comes_with_status_and_headers(nginx, site):
    (site / "doc").write_text("hello")
    document, naps = await fetch(at(f"{nginx.url}/doc"))
    assert (document.status, document.body, naps) == (200, b"hello", [])
    assert document.headers["content-length"] == "5"
    missing, _ = await fetch(at(f"{nginx.url}/nothing"))
    assert missing.status == 404


async def test_tls_with_an_authority_of_ones_own(start_nginx, site):
    (site / "doc").write_text("hello")
    nginx = start_nginx(tls=True)
    url = f"{nginx.url}/doc"
    assert (await fetch(at(url, ca_file=str(nginx.ca_file))))[0].body == b"hello"
    assert (await fetch(at(url, insecure=True)))[0].body == b"hello"
    error, naps = await fetch(at(url))
    assert str(error).startswith(f"{url}: the server's certificate is not trusted: ")
    assert naps == []
    error, _ = await fetch(at(url, ca_file="/nonexistent.pem"))
    assert "cannot be read" in str(error)


async def test_tls_with_the_certificate_of_another_server(start_nginx, site):
    (site / "doc").write_text("hello")
    nginx = start_nginx(tls=True, names=("images.example.com",))
    error, naps = await fetch(at(f"{nginx.url}/doc", ca_file=str(nginx.ca_file)))
    assert str(error).startswith(
        f"{nginx.url}/doc: the server's certificate is not trusted: IP address mismatch"
    )
    assert naps == []


async def test_redirects_are_followed_and_headers_stay_at_home(start_faulty):
    def arrive(request, wire):
        wire.reply("200 OK", {}, b"there")

    other = start_faulty(arrive)

    def send_on(request, wire):
        wire.reply("302 Found", {"Location": "/two" if request.target == "/one" else f"{other.url}/three"})

    first = start_faulty(send_on)
    document, _ = await fetch(at(f"{first.url}/one", headers=(("Authorization", SECRET),)))
    assert document.body == b"there"
    assert [request.headers.get("authorization") for request in first.requests] == [SECRET, SECRET]
    assert "authorization" not in other.requests[0].headers


async def test_a_redirect_loop_ends(start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("301 Moved", {"Location": "/again"}))
    error, _ = await fetch(at(f"{server.url}/again"))
    assert str(error) == f"{server.url}/again: redirects more than 5 times"
    assert len(server.requests) == 6


async def test_a_redirect_from_https_to_http_is_refused(start_nginx):
    nginx = start_nginx(tls=True, locations={"/down": "return 302 http://127.0.0.1:1/;"})
    error, _ = await fetch(at(f"{nginx.url}/down", ca_file=str(nginx.ca_file)))
    assert "from https to http" in str(error)


async def test_an_overloaded_server_is_asked_again_when_it_says(start_faulty):
    def answer(request, wire):
        if request.number < 3:
            wire.reply("503 Busy", {"Retry-After": "2"}, b"busy")
        else:
            wire.reply("200 OK", {}, b"now")

    document, naps = await fetch(at(start_faulty(answer).url))
    assert (document.body, naps) == (b"now", [2.0, 2.0])


async def test_the_last_refusal_is_returned(start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("503 Busy", {"Retry-After": "9999"}, b"busy"))
    document, naps = await fetch(at(server.url))
    assert (document.status, document.body, naps) == (503, b"busy", [5.0, 5.0])


async def test_a_server_that_is_not_there():
    error, naps = await fetch(at("http://127.0.0.1:9/x?token=" + SECRET))
    assert str(error) == "http://127.0.0.1:9/x: connection refused"
    assert "see that the server is up" in error.hint
    assert len(naps) == 2


async def test_a_proxy_that_is_not_there():
    error, _ = await fetch(at("http://example.org/x"), environ={"http_proxy": "http://127.0.0.1:9"})
    assert error.hint == "see that the proxy is up, and that its URL is right"


async def test_a_server_that_takes_no_connection():
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        error, _ = await fetch(at(f"http://127.0.0.1:{full.getsockname()[1]}/x"), connect_seconds=0.3)
    assert "no connection within 0.3 s" in str(error)
    assert "`proxy`" in error.hint


async def test_a_large_answer_is_refused_before_it_is_read(start_faulty, site, nginx):
    with (site / "big").open("wb") as big:
        big.truncate(100 << 20)
    error, _ = await fetch(at(f"{nginx.url}/big"), max_bytes=1 << 20)
    assert "larger than 1048576 bytes" in str(error)
    bomb = gzip.compress(bytes(20 << 20))
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {"Content-Encoding": "gzip"}, bomb))
    error, _ = await fetch(at(server.url), max_bytes=1 << 20)
    assert "larger than 1048576 bytes" in str(error)


async def test_gzip_is_decoded_and_nothing_else(start_faulty):
    server = start_faulty(
        lambda request, wire: wire.reply(
            "200 OK", {"Content-Encoding": request.target[1:]}, gzip.compress(b"text")
        )
    )
    assert (await fetch(at(f"{server.url}/gzip")))[0].body == b"text"
    error, _ = await fetch(at(f"{server.url}/br"))
    assert "encoding that was not asked for" in str(error)


async def test_an_answer_in_single_bytes_lets_others_have_their_turn(start_faulty):
    """All of it is there at once, so reading it never waits."""
    size = 20_000

    def answer(_, wire):
        chunks = b"1\r\nx\r\n" * size + b"0\r\n\r\n"
        wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, chunks, length=False)

    server = start_faulty(answer)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        document, _ = await fetch(at(server.url))
        nursery.cancel_scope.cancel()
    assert document.body == b"x" * size
    assert turns > size // 64


async def test_an_answer_in_too_many_pieces_is_refused(start_faulty, monkeypatch):
    monkeypatch.setattr("imgstored.http.gunzip._PIECES", 1000)

    def answer(_, wire):
        wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, b"1\r\nx\r\n" * 50_000, length=False)

    error, naps = await fetch(at(start_faulty(answer).url))
    assert error.message.endswith(": the answer comes in too many pieces")
    assert naps == []
    gc.collect()


async def test_requests_of_what_reads_are_bounded_and_hold_up_no_change(start_faulty):
    release = threading.Event()

    def answer(request, wire):
        if request.target == "/held":
            release.wait(30)
        wire.reply("200 OK", {}, b"{}")

    server = start_faulty(answer)
    try:
        async with trio.open_nursery() as nursery:
            with lanes.bound("strangers"):
                for _ in range(100):
                    nursery.start_soon(fetch, at(f"{server.url}/held"))
            with trio.fail_after(30):
                while len(server.requests) < 32:  # noqa: ASYNC110 - what is waited for is in a thread
                    await trio.sleep(0.01)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert len(server.requests) == 32
                assert (await fetch(at(f"{server.url}/free")))[0].status == 200
            release.set()
    finally:
        release.set()


async def test_the_last_descriptors_are_not_for_what_reads(nginx, site, monkeypatch):
    (site / "doc").write_text("hello")
    monkeypatch.setattr("imgstored.host.descriptors.are_scarce", lambda: True)
    for lane in ("strangers", "questions"):
        with lanes.bound(lane):
            error, _ = await fetch(at(f"{nginx.url}/doc"))
            assert error.message == f"{nginx.url}/doc: the daemon has too many open files"
    assert (await fetch(at(f"{nginx.url}/doc")))[0].status == 200


@pytest.mark.parametrize(
    "encoding", ["UTF-8", "", "aws-chunked", "identity", "gzip", "x-gzip", "utf-8, none"]
)
async def test_an_encoding_that_is_none_says_nothing(start_faulty, encoding):
    server = start_faulty(
        lambda request, wire: wire.reply("200 OK", {"Content-Encoding": encoding}, b'[{"plain": "text"}]')
    )
    document, _ = await fetch(at(server.url))
    assert document.body == b'[{"plain": "text"}]'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda request, wire: wire.stall(), "sent nothing for 0.2 s"),
        (lambda request, wire: wire.reset(), ""),
        (lambda request, wire: wire.send(b"SSH-2.0-OpenSSH\r\n\r\n"), "not sound HTTP"),
        (
            lambda request, wire: (
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
                wire.close(),
            ),
            "HTTP",
        ),
    ],
    ids=["stall", "reset", "not-http", "cut-short"],
)
async def test_a_broken_answer_is_a_client_error(start_faulty, answer, words):
    server = start_faulty(answer)
    error, _ = await fetch(at(server.url, headers=(("X-Key", SECRET),)), silence_seconds=0.2)
    assert str(error).startswith(f"{server.url}: ")
    assert words in str(error)
    assert SECRET not in str(error)


async def test_the_whole_has_a_limit_even_if_bytes_keep_coming(start_faulty):
    def drip(request, wire):
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            wire.send(b".")
            wire.stall(0.02)

    server = start_faulty(drip)
    started = trio.current_time()
    error, _ = await fetch(at(server.url), total_seconds=0.3)
    assert "no complete answer within 0.3 s" in str(error)
    assert trio.current_time() - started < 15  # all of it would take 20 s


async def test_a_proxy_carries_both_schemes(start_nginx, site):
    (site / "doc").write_text("hello")
    plain, secure = start_nginx(), start_nginx(tls=True)
    with ForwardProxy(authorization="Basic dTpw") as proxy:
        for nginx in (plain, secure):
            access = {"proxy": f"http://u:p@{proxy.address}", "ca_file": str(secure.ca_file)}
            document, _ = await fetch(at(f"{nginx.url}/doc", **access))
            assert document.body == b"hello"
        assert [line.split()[0] for line in proxy.seen] == ["GET", "CONNECT"]
        error, _ = await fetch(at(f"{secure.url}/doc", proxy=f"http://u:wrong@{proxy.address}"))
        assert isinstance(error, ClientError)
        assert "wrong" not in str(error)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("login", [None, ("u", "p")])
async def test_a_socks_proxy_carries_both_schemes(start_nginx, site, login, whole):
    (site / "doc").write_text("hello")
    plain, secure = start_nginx(), start_nginx(tls=True)
    with SocksProxy(login=login, whole=whole) as proxy:
        for nginx in (plain, secure):
            access = {
                "proxy": f"socks5://{'u:p@' if login else ''}{proxy.address}",
                "ca_file": str(secure.ca_file),
            }
            document, _ = await fetch(at(f"{nginx.url}/doc", **access))
            assert document.body == b"hello"
        assert proxy.seen == [f"127.0.0.1:{plain.port}", f"127.0.0.1:{secure.port}"]


@pytest.mark.parametrize(("kind", "scheme"), [(ForwardProxy, "http"), (SocksProxy, "socks5")])
async def test_no_proxy_is_asked_for_what_is_nearer_than_allowed(nginx, site, kind, scheme):
    (site / "doc").write_text("hello")
    with kind() as proxy:
        location = at(f"{nginx.url}/doc", proxy=f"{scheme}://{proxy.address}")
        error, _ = await fetch(replace(location, limit=Nearness.PUBLIC))
        assert "leads to an internal address (127.0.0.1)" in str(error)
        assert proxy.seen == []
        document, _ = await fetch(replace(location, limit=Nearness.LOOPBACK))
        assert (document.body, document.near) == (b"hello", Nearness.LOOPBACK)
        assert len(proxy.seen) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"refuse": True}, r"refuses the connection \(connection not allowed by ruleset\)"),
        ({"login": ("u", "other")}, "refuses the credentials"),
    ],
)
async def test_a_socks_proxy_that_refuses(nginx, settings, words):
    with SocksProxy(**settings) as proxy:
        error, _ = await fetch(at(f"{nginx.url}/doc", proxy=f"socks5://u:{SECRET}@{proxy.address}"))
        gc.collect()
        assert isinstance(error, ClientError)
        assert re.search(words, error.message)
        assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "the proxy closed the connection"),
        (b"\x05", "the proxy closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SOCKS 5"),
        (b"\x05\x09", "does not speak SOCKS 5"),
        (b"\x05\x00\x05\x00\x00\x07", "does not speak SOCKS 5"),
        (b"\x05\x00\x05\x77\x00\x01" + bytes(6), "does not speak SOCKS 5"),
    ],
)
async def test_what_is_no_socks_proxy(reply, words):
    """Whatever comes is an error of ours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(reply)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(4096):
                            pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            port = listening.getsockname()[1]
            error, _ = await fetch(at("http://127.0.0.1:9/doc", proxy=f"socks5://127.0.0.1:{port}"))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            await trio.to_thread.run_sync(thread.join)
    assert isinstance(error, ClientError)
    assert words in error.message


async def test_a_socks_proxy_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = f"socks5://127.0.0.1:{listening.getsockname()[1]}"
        error, _ = await fetch(at("http://127.0.0.1:9/doc", proxy=proxy), connect_seconds=0.1, tries=1)
    assert isinstance(error, ClientError)
    assert "no connection within 0.1 s" in error.message


async def test_a_bad_header_is_refused_without_being_shown():
    error, _ = await fetch(at("http://127.0.0.1:9/", headers=(("X-Key", f"{SECRET}\r\nX: y"),)))
    assert "cannot be sent" in str(error)
    assert SECRET not in str(error)


def test_importing_the_module_does_not_import_httpx2():
    code = "import sys, imgstored.http.documents; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "first",
    [*(f"{status} No" for status in (408, 429, 500, 502, 503, 504, 529)), "close", "reset", "cut"],
)
async def test_what_passes_is_asked_again(start_faulty, first):
    def answer(request, wire):
        if request.number > 1:
            wire.reply("200 OK", {}, b"hello")
        elif first == "close":
            wire.close()
        elif first == "reset":
            wire.reset()
        elif first == "cut":
            wire.reply("200 OK", {"Content-Length": "10"}, b"hel")
            wire.close()
        else:
            wire.reply(first, {}, b"busy")

    server = start_faulty(answer)
    document, naps = await fetch(at(f"{server.url}/doc"))
    assert (document.status, document.body, len(naps)) == (200, b"hello", 1)


@pytest.mark.parametrize("word", ["deflate", "br", "zstd", "gzip, br"])
async def test_an_encoding_that_is_only_named(start_faulty, word):
    body = gzip.compress(b'["\xc3\xbc"]') if "gzip" in word else b'["\xc3\xbc"]'
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {"Content-Encoding": word}, body))
    document, _ = await fetch(at(server.url))
    assert document.body == b'["\xc3\xbc"]'


async def test_an_encoding_that_was_not_asked_for(start_faulty):
    body = zlib.compress(b"hello" * 100)
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {"Content-Encoding": "deflate"}, body))
    error, _ = await fetch(at(server.url))
    assert "an encoding that was not asked for ('deflate')" in error.message
