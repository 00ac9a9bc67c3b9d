from __future__ import annotations

import random
import shutil
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace as changed

from imgstored.http.addresses import Nearness
from imgstored.http.location import Access, Location
from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.http.ranges import RangeConnection, Timeouts
from tests.support.faulty_server import FaultyServer, Request, Wire
from tests.support.forward_proxy import ForwardProxy
from tests.support.nginx import Nginx
from tests.support.sluice import Sluice
from tests.support.socks_proxy import SocksProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from imgstored.http.ranges import Sink

SIZE = 3_000_000
CONTENT = random.Random(1).randbytes(SIZE)
SECRET = "hunter2"
OPEN = Access()
BASIC = "Basic " + b64encode(b"user:pass word").decode()


@contextmanager
def connection(
    url: str, access: Access = OPEN, environ: Mapping[str, str] | None = None, silence: float = 5
) -> Iterator[RangeConnection]:
    ranges = RangeConnection(
        Location(url, "source", access), timeouts=Timeouts(5, silence), environ=environ or {}
    )
    try:
        yield ranges
    finally:
        ranges.close()


def fetch(
    ranges: RangeConnection, start: int = 0, stop: int | None = None, validator: str | None = None
) -> tuple[RangeReply, bytes]:
    got = bytearray()

    def accept(reply: RangeReply) -> Sink:
        return got.extend

    return ranges.get(start, stop, validator, accept), bytes(got)


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("www")
    (root / "file").write_bytes(CONTENT)
    (root / "file").touch()
    return root


@pytest.fixture(scope="module")
def nginx(www: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    locations = {
        "/loop": "return 302 /loop;",
        "/moved": "return 301 /file;",
        "/away": "return 302 $arg_to;",
        "/busy": "add_header Retry-After 7 always; return 503;",
    }
    with Nginx(tmp_path_factory.mktemp("nginx"), root=www, locations=locations) as server:
        yield server


@pytest.fixture(scope="module")
def tls(www: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(
        tmp_path_factory.mktemp("tls"), root=www, tls=True, locations={"/away": "return 302 $arg_to;"}
    ) as server:
        yield server


@contextmanager
def faulty(answer: Callable[[Request, Wire], None], **options: float) -> Iterator[RangeConnection]:
    with FaultyServer(answer) as server, connection(server.url + "/file?" + SECRET, **options) as ranges:  # type: ignore[arg-type]
        yield ranges


# -- sound servers -----------------------------------------------------------------------------------------


def test_one_connection_serves_range_after_range(nginx: Nginx) -> None:
    before = len(nginx.settled_hits())
    with connection(nginx.url + "/file") as ranges:
        for start, stop in [(0, 10), (10, 2_500_000), (SIZE - 5, SIZE)]:
            reply, got = fetch(ranges, start, stop)
            assert (reply.partial, reply.start, reply.stop, reply.total) == (True, start, stop, SIZE)
            assert got == CONTENT[start:stop]
        assert fetch(ranges, SIZE - 5)[1] == CONTENT[-5:]
    hits = nginx.settled_hits()[before:]
    assert len(hits) == 4
    assert len({hit.connection for hit in hits}) == 1


def test_a_validator_that_still_holds_and_one_that_does_not(nginx: Nginx) -> None:
    with connection(nginx.url + "/file") as ranges:
        validator = fetch(ranges, 0, 10)[0].validator
        assert validator is not None
        assert fetch(ranges, 10, 20, validator)[1] == CONTENT[10:20]
        reply, got = fetch(ranges, 10, 20, '"another"')
        assert (reply.partial, reply.start, reply.total) == (False, 0, SIZE)
        assert got == CONTENT


def test_an_idle_connection_that_the_server_closed_is_opened_anew() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT, request)
        wire.close()

    with faulty(answer) as ranges:
        for start in range(5):
            assert fetch(ranges, start, 10)[1] == CONTENT[start:10]


def test_an_idle_connection_that_the_server_half_closed_is_opened_anew() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT, request)
        wire.half_close()

    with faulty(answer) as ranges:
        for start in range(5):
            assert fetch(ranges, start, 10)[1] == CONTENT[start:10]


def test_a_chunked_answer() -> None:
    def answer(request: Request, wire: Wire) -> None:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (CONTENT[:10], CONTENT[10:3000]))
        wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, body + b"0\r\n\r\n", length=False)

    with faulty(answer) as ranges:
        for _ in range(2):
            reply, got = fetch(ranges, 5, 100)
            assert (reply.partial, reply.stop, reply.total) == (False, None, None)
            assert got == CONTENT[:3000]


def test_an_answer_that_ends_with_its_connection() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.reply("200 OK", {}, CONTENT, length=False)
        wire.close()

    with faulty(answer) as ranges:
        assert fetch(ranges, 0, 10)[1] == CONTENT


def test_what_the_sink_raises_passes_through_and_the_next_request_is_sound(nginx: Nginx) -> None:
    def refuse(reply: RangeReply) -> Sink:
        raise KeyError("not wanted")

    with connection(nginx.url + "/file") as ranges:
        with pytest.raises(KeyError):
            ranges.get(0, SIZE, None, refuse)
        assert fetch(ranges, 5, 9)[1] == CONTENT[5:9]


# -- faults ------------------------------------------------------------------------------------------------


def cut_off(request: Request, wire: Wire) -> None:
    wire.reply(
        "206 Partial Content", {"Content-Length": "100", "Content-Range": "bytes 0-99/1000"}, bytes(40)
    )
    wire.close()


def cut_off_chunked(request: Request, wire: Wire) -> None:
    wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, b"ff\r\nxxx", length=False)
    wire.close()


def half_closed(request: Request, wire: Wire) -> None:
    wire.half_close()


def half_closed_in_the_head(request: Request, wire: Wire) -> None:
    wire.send(b"HTTP/1.1 206 Partial Content\r\nContent-Le")
    wire.half_close()


def half_closed_in_the_body(request: Request, wire: Wire) -> None:
    headers = {"Content-Length": "100", "Content-Range": "bytes 0-99/1000"}
    wire.reply("206 Partial Content", headers, bytes(40))
    wire.half_close()


def reset(request: Request, wire: Wire) -> None:
    wire.reset()


def mute(request: Request, wire: Wire) -> None:
    wire.close()


def another_language(request: Request, wire: Wire) -> None:
    wire.send(b"220 smtp.example ESMTP\r\n")
    wire.close()


def endless_head(request: Request, wire: Wire) -> None:
    wire.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)
    wire.close()


def other_range(request: Request, wire: Wire) -> None:
    wire.part(CONTENT, request, Content_Range=f"bytes 1-100/{SIZE}")


def too_much_in_chunks(request: Request, wire: Wire) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Range": f"bytes 0-99/{SIZE}"}
    wire.reply("206 Partial Content", headers, b"65\r\n" + bytes(101) + b"\r\n0\r\n\r\n", length=False)


def negative_chunk(request: Request, wire: Wire) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Range": f"bytes 0-99/{SIZE}"}
    wire.reply("206 Partial Content", headers, b"-5\r\n" + bytes(4096), length=False)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (negative_chunk, "the connection ended early"),
        (cut_off, "the connection ended 60 bytes early"),
        (cut_off_chunked, "the connection ended early"),
        (half_closed, "closed the connection without an answer"),
        (half_closed_in_the_head, "the connection ended early"),
        (half_closed_in_the_body, "the connection ended 60 bytes early"),
        (reset, "reset"),
        (mute, "closed the connection without an answer"),
        (another_language, "not HTTP"),
        (endless_head, "not HTTP"),
        (other_range, "another range"),
        (too_much_in_chunks, "more bytes than it announced"),
    ],
)
def test_faults_of_a_server(answer: Callable[[Request, Wire], None], words: str) -> None:
    with faulty(answer) as ranges, pytest.raises(FetchError, match=words) as caught:
        fetch(ranges, 0, 100)
    assert not caught.value.lasting
    assert caught.value.message.startswith("http://127.0.0.1:")
    assert SECRET not in caught.value.message


def test_a_head_that_is_cut_is_not_an_empty_file() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nServer: x\r\n")
        wire.close()

    with faulty(answer) as ranges, pytest.raises(FetchError, match="the connection ended early"):
        fetch(ranges, 0, 100)


def test_a_proxy_that_cuts_its_head_makes_no_tunnel() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n")
        wire.half_close()

    with (
        FaultyServer(answer) as proxy,
        connection("https://images.example.com/file", Access(proxy=proxy.url)) as ranges,
        pytest.raises(FetchError, match="the connection ended early"),
    ):
        fetch(ranges, 0, 100)


def test_bytes_beyond_what_was_announced_never_reach_the_sink() -> None:
    def answer(request: Request, wire: Wire) -> None:
        headers = {"Content-Range": f"bytes 0-99/{SIZE}", "Content-Length": "100"}
        wire.reply("206 Partial Content", headers, CONTENT[:100] + b"garbage that nobody asked for")

    with faulty(answer) as ranges:
        # The garbage is no answer to the second request, which is made again on another connection.
        assert fetch(ranges, 0, 100)[1] == CONTENT[:100]
        assert fetch(ranges, 0, 100)[1] == CONTENT[:100]


@pytest.mark.alone
def test_silence(nginx: Nginx) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.reply(
            "206 Partial Content", {"Content-Length": "100", "Content-Range": "bytes 0-99/1000"}, bytes(40)
        )
        wire.stall()

    before = time.monotonic()
    with faulty(answer, silence=0.3) as ranges, pytest.raises(FetchError, match=r"0\.3 s of silence"):
        fetch(ranges, 0, 100)
    assert time.monotonic() - before < 3


@pytest.mark.parametrize(
    ("path", "words", "lasting", "rest"),
    [
        ("/missing", "not there", True, None),
        ("/busy", "503", False, 7.0),
        ("/file?x", "no bytes from", True, None),
    ],
)
def test_refusals(nginx: Nginx, path: str, words: str, lasting: bool, rest: float | None) -> None:
    with connection(nginx.url + path) as ranges, pytest.raises(FetchError, match=words) as caught:
        fetch(ranges, SIZE, SIZE + 1)
    assert (caught.value.lasting, caught.value.retry_after) == (lasting, rest)
    assert caught.value.other_size == ("no bytes" in words)


def test_nobody_listens() -> None:
    with FaultyServer(mute) as server:
        url = server.url
    with connection(url) as ranges, pytest.raises(FetchError, match="connection refused"):
        fetch(ranges, 0, 1)


@pytest.mark.parametrize("secure", [False, True])
def test_aborted_from_another_thread(nginx: Nginx, tls: Nginx, secure: bool) -> None:
    server = tls if secure else nginx
    with Sluice(server.port) as sluice:
        # The rest does not come before the end of the test.
        sluice.hold(200_000)
        url = server.url.replace(f":{server.port}", f":{sluice.port}")
        with (
            connection(f"{url}/file", Access(ca_file=str(tls.ca_file))) as ranges,
            ThreadPoolExecutor(1) as executor,
        ):
            fetching = executor.submit(fetch, ranges)
            while not sluice.held:
                time.sleep(0.005)
            ranges.abort("not needed any more")
            with pytest.raises(FetchError, match="not needed any more"):
                fetching.result(60)
            assert ranges.aborted
            with pytest.raises(FetchError, match="not needed any more"):
                fetch(ranges, 0, 1)


# -- redirects ---------------------------------------------------------------------------------------------


def test_a_redirect_is_followed_and_remembered(nginx: Nginx) -> None:
    before = len(nginx.settled_hits())
    with connection(nginx.url + "/moved") as ranges:
        for _ in range(3):
            assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
    assert [hit.path for hit in nginx.settled_hits()[before:]] == ["/moved", "/file", "/file", "/file"]


def test_the_files_own_url_is_asked_anew_after_a_failure() -> None:
    """It may lead to a signed URL, which is good for some minutes only."""

    def answer(request: Request, wire: Wire) -> None:
        if request.target.startswith("/file"):
            wire.reply("302 Found", {"Location": f"/signed-{request.number}"})
            wire.close()
        elif request.number == 3:
            wire.part(CONTENT, request, Content_Length="5")
        else:
            wire.part(CONTENT, request)

    with FaultyServer(answer) as server, connection(server.url + "/file") as ranges:
        assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
        with pytest.raises(FetchError, match="announces 5 bytes"):
            fetch(ranges, 0, 10)
        assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
        targets = [request.target for request in server.requests]
    assert targets == ["/file", "/signed-1", "/signed-1", "/file", "/signed-4"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_signed_url_that_has_expired_costs_nothing(status: int) -> None:
    """However often: each is good for one range, and then refused."""
    good: set[str] = set()

    def answer(request: Request, wire: Wire) -> None:
        if request.target == "/file":
            good.add(f"/signed-{request.number}")
            wire.reply("302 Found", {"Location": f"/signed-{request.number}"})
            wire.close()
        elif request.target in good:
            good.remove(request.target)
            wire.part(CONTENT, request)
        else:
            wire.reply(f"{status} Expired", {})

    with FaultyServer(answer) as server, connection(server.url + "/file") as ranges:
        for start in range(5):
            assert fetch(ranges, start, 10)[1] == CONTENT[start:10]


def test_a_fresh_signed_url_that_is_refused_is_a_failure() -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.target == "/file":
            wire.reply("302 Found", {"Location": "/signed"})
        else:
            wire.reply("403 Forbidden", {})

    with FaultyServer(answer) as server, connection(server.url + "/file") as ranges:
        for _ in range(2):
            with pytest.raises(FetchError, match="403"):
                fetch(ranges, 0, 10)
        assert len(server.requests) == 4


def test_a_remembered_host_that_is_gone_costs_nothing() -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT, request)
        wire.close()

    hosts: list[FaultyServer] = []

    def send_on(request: Request, wire: Wire) -> None:
        wire.reply("302 Found", {"Location": hosts[-1].url + "/x"})

    with FaultyServer(send_on) as server, FaultyServer(answer) as second:
        with FaultyServer(answer) as first, connection(server.url + "/file") as ranges:
            hosts.append(first)
            assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
            hosts.append(second)
            first.__exit__(None, None, None)
            assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
        assert len(second.requests) == 1


def test_without_a_range_header(nginx: Nginx) -> None:
    got = bytearray()
    with connection(nginx.url + "/file") as ranges:
        reply = ranges.get(0, None, '"x"', lambda reply: got.extend, plain=True)
    assert (reply.partial, bytes(got)) == (False, CONTENT)
    assert nginx.settled_hits()[-1].range == ""


def test_a_redirect_in_a_circle(nginx: Nginx) -> None:
    with (
        connection(nginx.url + "/loop") as ranges,
        pytest.raises(FetchError, match="more than 5 times") as caught,
    ):
        fetch(ranges, 0, 1)
    assert caught.value.lasting


def test_headers_stay_with_their_origin(nginx: Nginx) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT, request)

    access = Access(headers=(("Authorization", SECRET),))
    with FaultyServer(answer) as other:
        with connection(f"{nginx.url}/away?to={other.url}/file", access) as ranges:
            assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
        with connection(other.url, access) as ranges:
            fetch(ranges, 0, 10)
        assert ["authorization" in request.headers for request in other.requests] == [False, True]


def test_no_step_down_from_https_to_http(nginx: Nginx, tls: Nginx) -> None:
    access = Access(ca_file=str(tls.ca_file))
    with (
        connection(f"{tls.url}/away?to={nginx.url}/file", access) as ranges,
        pytest.raises(FetchError, match="from https to http") as caught,
    ):
        fetch(ranges, 0, 1)
    assert caught.value.lasting
    with connection(f"{nginx.url}/away?to={tls.url}/file", access) as ranges:
        assert fetch(ranges, 0, 10)[1] == CONTENT[:10]


# -- TLS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["own authority", "insecure"])
def test_over_tls(tls: Nginx, how: str) -> None:
    access = Access(insecure=True) if how == "insecure" else Access(ca_file=str(tls.ca_file))
    with connection(tls.url + "/file", access) as ranges:
        assert fetch(ranges, 100, 2_500_000)[1] == CONTENT[100:2_500_000]
        assert fetch(ranges, 0, 100)[1] == CONTENT[:100]


def test_a_certificate_that_is_not_trusted(tls: Nginx) -> None:
    with connection(tls.url + "/file") as ranges, pytest.raises(FetchError, match="not trusted") as caught:
        fetch(ranges, 0, 1)
    assert caught.value.lasting


def test_a_certificate_of_another_server(www: Path, tmp_path: Path) -> None:
    """Of the right authority, and so as good as any that somebody on the way could have."""
    with Nginx(tmp_path / "other", root=www, tls=True, names=("images.example.com",)) as other:
        access = Access(ca_file=str(other.ca_file))
        with connection(other.url + "/file", access) as ranges, pytest.raises(FetchError) as caught:
            fetch(ranges, 0, 1)
    assert "certificate is not trusted: IP address mismatch" in str(caught.value)
    assert other.url in str(caught.value)
    assert caught.value.lasting


def test_a_client_has_a_certificate_for_its_own_server_only(nginx: Nginx, www: Path, tmp_path: Path) -> None:
    locations = {"/away": "return 302 $arg_to;"}
    with (
        Nginx(tmp_path / "a", root=www, tls=True, clients=True, locations=locations) as own,
    ):
        known = Access(ca_file=str(own.ca_file))
        named = replace(
            known, cert_file=str(tmp_path / "a/client.pem"), key_file=str(tmp_path / "a/client.key")
        )
        with connection(own.url + "/file", named) as ranges:
            assert fetch(ranges, 0, 10)[1] == CONTENT[:10]
        with connection(own.url + "/file", known) as ranges, pytest.raises(FetchError, match="400"):
            fetch(ranges, 0, 10)
        # A second server of the same authorities, which would take the certificate.
        shutil.copytree(tmp_path / "a", tmp_path / "c", ignore=shutil.ignore_patterns("nginx*", "*.log"))
        with (
            Nginx(tmp_path / "c", root=www, tls=True, clients=True) as same,
            connection(f"{own.url}/away?to={same.url}/file", named) as ranges,
            pytest.raises(FetchError, match="400"),
        ):
            fetch(ranges, 0, 10)


def test_plain_http_where_tls_is_expected(nginx: Nginx) -> None:
    with (
        connection(nginx.url.replace("http:", "https:") + "/file") as ranges,
        pytest.raises(FetchError, match="TLS failed"),
    ):
        fetch(ranges, 0, 1)


# -- proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [None, "user:pass%20word@"])
@pytest.mark.parametrize("secure", [False, True])
def test_through_a_proxy(nginx: Nginx, tls: Nginx, credentials: str | None, secure: bool) -> None:
    server = tls if secure else nginx
    with ForwardProxy(authorization=BASIC if credentials else None) as proxy:
        access = Access(ca_file=str(tls.ca_file), proxy=f"http://{credentials or ''}{proxy.address}")
        with connection(server.url + "/file", access) as ranges:
            assert fetch(ranges, 5, 2_000_000)[1] == CONTENT[5:2_000_000]
        first = f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1" if secure else f"GET {nginx.url}/file HTTP/1.1"
        assert proxy.seen[0] == first


@pytest.mark.parametrize("login", [None, ("user", "pass word")])
@pytest.mark.parametrize("secure", [False, True])
def test_through_a_socks_proxy(nginx: Nginx, tls: Nginx, login: tuple[str, str] | None, secure: bool) -> None:
    server = tls if secure else nginx
    credentials = "" if login is None else "user:pass%20word@"
    with SocksProxy(login=login) as proxy:
        access = Access(ca_file=str(tls.ca_file), proxy=f"socks5://{credentials}{proxy.address}")
        with connection(server.url.replace("127.0.0.1", "localhost") + "/file", access) as ranges:
            assert fetch(ranges, 5, 2_000_000)[1] == CONTENT[5:2_000_000]
        # The proxy resolves the name.
        assert proxy.seen == [f"localhost:{server.port}"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"login": ("user", "other")}, "refuses the credentials"),
        ({"refuse": True}, "refuses the connection .connection not allowed"),
    ],
)
def test_a_socks_proxy_that_refuses(nginx: Nginx, settings: dict[str, Any], words: str) -> None:
    with SocksProxy(**settings) as proxy:
        access = Access(proxy=f"socks5://user:{SECRET}@{proxy.address}")
        with (
            connection(nginx.url + "/file", access) as ranges,
            pytest.raises(FetchError, match=words) as caught,
        ):
            fetch(ranges, 0, 10)
        assert SECRET not in caught.value.message
    with SocksProxy(login=("user", "x")) as proxy:
        access = Access(proxy=f"socks5://{proxy.address}")
        with (
            connection(nginx.url + "/file", access) as ranges,
            pytest.raises(FetchError, match="wants other"),
        ):
            fetch(ranges, 0, 10)


def test_a_proxy_that_does_not_speak_socks(nginx: Nginx) -> None:
    access = Access(proxy=nginx.url.replace("http:", "socks5:"))
    with (
        connection(nginx.url + "/file", access) as ranges,
        pytest.raises(FetchError, match=r"SOCKS 5|closed"),
    ):
        fetch(ranges, 0, 10)


def test_the_environments_proxy(nginx: Nginx) -> None:
    with ForwardProxy() as proxy:
        with connection(nginx.url + "/file", environ={"http_proxy": proxy.address}) as ranges:
            fetch(ranges, 0, 1)
        assert len(proxy.seen) == 1
        environ = {"http_proxy": proxy.address, "no_proxy": "127.0.0.0/8"}
        with connection(nginx.url + "/file", environ=environ) as ranges:
            fetch(ranges, 0, 1)
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_refuses(nginx: Nginx, tls: Nginx, secure: bool) -> None:
    with ForwardProxy(authorization=BASIC) as proxy:
        access = Access(proxy=f"http://user:{SECRET}@{proxy.address}")
        url = (tls if secure else nginx).url + "/file"
        with connection(url, access) as ranges, pytest.raises(FetchError, match=r"407|refuse") as caught:
            fetch(ranges, 0, 1)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_no_proxy_is_asked_for_what_is_nearer_than_allowed(nginx: Nginx, scheme: str) -> None:
    with ForwardProxy() if scheme == "http" else SocksProxy() as proxy:
        location = Location(nginx.url + "/file", "source", Access(proxy=f"{scheme}://{proxy.address}"))
        far = RangeConnection(changed(location, limit=Nearness.PUBLIC), timeouts=Timeouts(5, 5), environ={})
        with closing(far), pytest.raises(FetchError, match=r"leads to an internal address \(127"):
            fetch(far, 0, 1)
        assert proxy.seen == []
        near = RangeConnection(
            changed(location, limit=Nearness.LOOPBACK), timeouts=Timeouts(5, 5), environ={}
        )
        with closing(near):
            assert fetch(near, 0, 1)[1] == CONTENT[:1]
        assert len(proxy.seen) == 1


class Granted:
    """Credentials that a server has asked for."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("Authorization", "Bearer granted"),)

    def renew(self, challenge: str, sent: tuple[tuple[str, str], ...], near: Nearness) -> bool:
        return False


def test_credentials_that_a_server_asked_for_stay_with_it() -> None:
    """A registry redirects to an object store, on another port here."""
    with (
        FaultyServer(lambda request, wire: wire.part(CONTENT, request)) as store,
        FaultyServer(
            lambda request, wire: wire.reply("302 Found", {"Location": store.url + "/layer"})
        ) as registry,
        closing(
            RangeConnection(
                Location(registry.url, "source", authorization=Granted()),
                timeouts=Timeouts(5, 5),
                environ={},
            )
        ) as ranges,
    ):
        assert fetch(ranges, 0, 5)[1] == CONTENT[:5]
        assert [asked.headers.get("authorization") for asked in registry.requests] == ["Bearer granted"]
        assert [asked.headers.get("authorization") for asked in store.requests] == [None]
