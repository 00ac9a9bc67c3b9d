"""The real server on real sockets: what hostile clients get, and what they cannot take from others."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import struct
import threading
import time
import tracemalloc
import urllib.request

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec.structs import replace

from imgstored.__main__ import exit_status
from imgstored.errors import ConfigError
from imgstored.httpd.conditional import answer_with
from imgstored.httpd.connection import Connection
from imgstored.httpd.message import HttpError, OpenFile, Response, Span, text
from imgstored.httpd.server import HttpServer, server_context
from tests.support.descriptors import no_files_left
from tests.support.http_server import LIMITS, PATIENCE, everything, serving

MIB = 1 << 20

CHUNKS = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def hello(request):
    return text(200, f"{request.method} {request.path}")


def echo(request):
    return Response(200, [], [request.read(1000)])


def get(path="/", *lines):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(os.urandom(8 * MIB))
    return path


def files(path):
    def application(request):
        fd = os.open(path, os.O_RDONLY)
        return answer_with(OpenFile(fd, path.stat().st_size, '"x"', 1.0), request)

    return application


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_requests_of_one_connection_are_answered_in_order():
    with serving(hello) as server, server.connect() as connected:
        connected.sendall(get("/a") + get("/b") + get("/c", "Connection: close"))
        answer = everything(connected)
    assert answer.endswith(b"\r\n\r\nGET /c\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS to a plain port
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        # Two lengths of one body are how requests are smuggled past a proxy.
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (CHUNKS + b"zz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", 400),  # cut off
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (CHUNKS + b"200\r\n" + b"a" * 512 + b"\r\n200\r\n" + b"a" * 512 + b"\r\n0\r\n\r\n", 413),
    ],
    ids=lambda each: str(each)[:40],
)  # fmt: skip
def test_what_is_wrong_is_refused(data, status):
    with serving(echo) as server:
        answer = server.say(data)
        assert status_of(answer) == status
        assert b"Connection: close" in answer
        # And it goes on serving others.
        assert b"200 OK" in server.say(get("/", "Connection: close"))


def test_a_length_beside_chunks_is_never_two_requests():
    """RFC 9112, 6.1 and 6.3: refused, and what follows is never taken for a request."""
    for head in (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        with serving(echo) as server:
            answer = server.say(head + b"5\r\nhello\r\n0\r\n\r\n" + get("/smuggled"))
        assert answer.count(b"HTTP/1.1 ") == 1
        assert status_of(answer) == 400
        assert b"Connection: close" in answer


def test_a_body_comes_in_chunks_or_whole():
    with serving(echo) as server:
        assert server.say(CHUNKS + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").endswith(b"\r\n\r\nabcde")
        whole = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        with server.connect() as connected:
            connected.sendall(whole)
            assert connected.recv(1000).startswith(b"HTTP/1.1 100 Continue")
            connected.sendall(b"abcde")
            connected.shutdown(socket.SHUT_WR)
            assert everything(connected).endswith(b"\r\n\r\nabcde")


def test_a_body_that_nobody_reads_is_no_request():
    body = get("/smuggled")
    with serving(hello) as server:
        answer = server.say(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"POST /a\n")


def test_a_mistake_of_ours_shows_nothing_and_ends_nothing():
    def application(request):
        raise KeyError("secret")

    with serving(application) as server:
        for _ in range(2):
            answer = server.say(get())
            assert status_of(answer) == 500
            assert b"secret" not in answer


def test_a_head_that_does_not_come_is_not_waited_for():
    with serving(hello, replace(LIMITS, head_seconds=0.2)) as server, server.connect() as connected:
        connected.sendall(b"GET / HTTP")
        assert everything(connected) == b""


def test_silence_between_requests_ends_a_connection():
    with serving(hello, replace(LIMITS, idle_seconds=0.1)) as server, server.connect() as connected:
        connected.sendall(get())
        assert everything(connected).count(b"200 OK") == 1


def test_a_body_that_stops_is_not_waited_for():
    with serving(echo, replace(LIMITS, silence_seconds=0.2)) as server, server.connect() as connected:
        connected.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert everything(connected) == b""


def test_who_does_not_read_is_not_waited_for(file):
    limits = replace(LIMITS, silence_seconds=0.3)
    with serving(files(file), limits) as server, server.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(get() * 3)
        until(lambda: server.server.connections == 0)
        with urllib.request.urlopen(server.url, timeout=PATIENCE) as answer:
            assert answer.read() == file.read_bytes()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_address_cannot_take_all_places():
    limits = replace(LIMITS, connections=8, client_connections=3)
    with serving(hello, limits) as server:
        held = [server.connect() for _ in range(3)]
        until(lambda: server.server.connections == 3)
        with server.connect() as more:
            assert status_of(everything(more)) == 503
        held.pop().close()
        until(lambda: server.server.connections == 2)
        assert b"200 OK" in server.say(get("/", "Connection: close"))
        for each in held:
            each.close()


def test_the_last_descriptors_are_for_others(monkeypatch):
    with serving(hello) as server:
        monkeypatch.setattr("imgstored.host.descriptors.is_reserved", lambda _: True)
        with server.connect() as more:
            assert status_of(everything(more)) == 503
        monkeypatch.undo()
        assert b"200 OK" in server.say(get("/", "Connection: close"))


def test_idle_connections_hold_no_thread():
    """More of them than there are threads: somebody who asks is answered at once."""
    limits = replace(LIMITS, handlers=2)
    with serving(hello, limits) as server:
        idle = [server.connect() for _ in range(20)]
        for each in idle[:10]:
            each.sendall(get())
            assert b"200 OK" in each.recv(1000)
        assert b"200 OK" in server.say(get("/", "Connection: close"))
        for each in idle:
            each.close()


def handed_over(monkeypatch):
    """The connections that threads were given, one for each time."""
    given = []
    answered = HttpServer._answered

    async def counted(self, connection):
        given.append(connection)
        return await answered(self, connection)

    monkeypatch.setattr(HttpServer, "_answered", counted)
    return given


def test_who_asks_again_at_once_keeps_the_thread(monkeypatch):
    monkeypatch.setattr("imgstored.httpd.server._STAY", PATIENCE)
    given = handed_over(monkeypatch)
    with serving(hello) as server, server.connect() as connected:
        for number in range(10):
            connected.sendall(get(f"/{number}"))
            assert connected.recv(1000).endswith(b"GET /%d\n" % number)
        assert len(given) == 1
        assert server.server.requests == 10
        # Of many requests in a row some wait for their turn.
        monkeypatch.setattr("imgstored.httpd.server._IN_A_ROW", 4)
    given.clear()
    with serving(hello) as server, server.connect() as connected:
        for _ in range(10):
            connected.sendall(get())
            assert b"200 OK" in connected.recv(1000)
        assert len(given) == 3
        assert server.server.requests == 10


@pytest.mark.parametrize(("few", "handlers"), [(0, 8), (8, 1)])
def test_nobody_keeps_a_thread_that_others_need(monkeypatch, few, handlers):
    monkeypatch.setattr("imgstored.httpd.server._STAY", PATIENCE)
    monkeypatch.setattr("imgstored.httpd.server._FEW", few)
    given = handed_over(monkeypatch)
    with serving(hello, replace(LIMITS, handlers=handlers)) as server, server.connect() as connected:
        for _ in range(3):
            connected.sendall(get())
            assert b"200 OK" in connected.recv(1000)
            with server.connect() as other:
                other.sendall(get("/", "Connection: close"))
                assert b"200 OK" in everything(other)
        assert len(given) == 6


def test_who_keeps_a_thread_gives_its_place_to_others(monkeypatch):
    """A client that waits for nothing is no reason to turn another one away."""
    monkeypatch.setattr("imgstored.httpd.server._STAY", PATIENCE)
    with serving(hello, replace(LIMITS, connections=1)) as server, server.connect() as connected:
        connected.sendall(get())
        assert b"200 OK" in connected.recv(1000)
        assert b"200 OK" in server.say(get("/", "Connection: close"))
        assert everything(connected) == b""


def test_the_end_of_an_answer_does_not_wait_for_the_client(file):
    """Nagle's algorithm holds a short packet back until the one before is acknowledged, for 40 ms."""
    with serving(files(file)) as server, server.connect() as connected:
        connected.sendall(get("/", "Range: bytes=0-9"))
        assert b"206 " in connected.recv(1000)
        (connection,) = server.server._open
        assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_little_waits_in_the_kernel_for_who_does_not_read(file):
    """By default Linux takes 2.5 MiB of an answer on loopback, whatever the client reads."""
    with serving(files(file)) as server, server.connect() as connected:
        connected.sendall(get("/", "Connection: close"))
        until(lambda: any(each._full for each in server.server._open))
        assert 0 < server.server.sent < MIB
        assert everything(connected).endswith(file.read_bytes())


def test_the_last_piece_of_an_answer_waits_for_none_after_it(file, monkeypatch):
    """The kernel holds back what more is announced to follow, for 200 ms."""
    announced = []
    write = Connection._write

    def watched(self, data, *, more=False):
        announced.append(more)
        write(self, data, more=more)

    monkeypatch.setattr(Connection, "_write", watched)

    def application(request):
        if request.path == "/list":
            return Response(200, [], [b"x" * 1000] * 300)
        if request.path == "/empty":
            return Response(200, [], [Span(-1, 0, 0)])
        return files(file)(request)

    with serving(application) as server:
        for path, line, pieces in (
            ("/", "Range: bytes=0-9,20-29", 3),  # a head each, and the end
            ("/list", "A: b", 5),
            ("/", "If-None-Match: *", 1),
            ("/empty", "A: b", 1),
        ):
            announced.clear()
            assert server.say(get(path, line, "Connection: close"))
            assert announced == [True] * (pieces - 1) + [False]


def test_what_all_clients_share_is_copied_for_none(monkeypatch):
    """Who reads nothing holds a thread for a while, and no copy of a long list."""
    image = os.urandom(MIB)

    def application(request):
        return Response(200, [], [image] * 32)

    tracemalloc.start()
    try:
        with serving(application) as server:
            deaf = [server.connect() for _ in range(8)]
            for each in deaf:
                each.sendall(get())
            until(lambda: server.server.sent > 8 << 10)
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
            with server.connect() as other:
                other.sendall(get("/", "Connection: close"))
                assert everything(other).partition(b"\r\n\r\n")[2] == image * 32
            for each in deaf:
                each.close()
    finally:
        tracemalloc.stop()


def test_a_file_that_is_still_coming(file, tmp_path):
    """The client gets what is there; it sees a cut where the rest never comes."""
    there = threading.Semaphore(0)
    broken = threading.Event()

    def available(offset):
        assert there.acquire(timeout=PATIENCE)
        if broken.is_set():
            raise RuntimeError("wrong checksum")
        return offset + MIB

    def application(request):
        fd = os.open(file, os.O_RDONLY)
        return answer_with(OpenFile(fd, 8 * MIB, '"x"', 1.0, available=available), request)

    content = file.read_bytes()
    with serving(application) as server, server.connect() as connected:
        connected.sendall(get("/", "Connection: close"))
        there.release()
        found = b""
        while len(found.partition(b"\r\n\r\n")[2]) < MIB:
            found += connected.recv(1 << 16)
        broken.set()
        there.release()
        found += everything(connected)
        head, _, body = found.partition(b"\r\n\r\n")
        assert b"Content-Length: 8388608" in head
        assert body == content[:MIB]


def test_a_file_that_became_shorter_is_cut_off(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"abc")

    def application(request):
        fd = os.open(path, os.O_RDONLY)
        return Response(200, [], [Span(fd, 0, 10)], close=lambda: os.close(fd))

    with serving(application) as server:
        answer = server.say(get())
        assert b"Content-Length: 10" in answer
        assert answer.endswith(b"\r\n\r\nabc")


def test_files_are_closed_whatever_happens(file):
    with no_files_left(), serving(files(file)) as server:
        for _ in range(3):
            with server.connect() as connected:
                connected.sendall(get())
                connected.recv(1000)  # and leaves
        server.say(get("/", "If-None-Match: *"))
        server.say(get("/", "Range: bytes=99999999-"))
        until(lambda: server.server.connections == 0)


def test_the_server_stops_while_it_sends(file):
    with serving(files(file)) as server:
        connected = server.connect()
        connected.sendall(get() * 4)
        connected.recv(1000)
    connected.close()


def test_the_rate_is_bounded_and_shared(file):
    """A client with many connections gets no more than another one with a single connection."""
    turns = []

    def application(request):
        turns.append(request.client)
        fd = os.open(file, os.O_RDONLY)
        return answer_with(OpenFile(fd, 2 * MIB, '"x"', 1.0), request)

    with serving(application, rate=8 * MIB) as server:
        began = time.monotonic()
        assert len(server.say(get("/", "Connection: close"))) > 2 * MIB
        assert time.monotonic() - began > 0.2  # 0.25 s at 8 MiB/s


def test_a_client_that_left_waits_for_no_turn(file):
    """At this rate its next piece would have its turn in half an hour."""

    def application(request):
        fd = os.open(file, os.O_RDONLY)
        return answer_with(OpenFile(fd, 8 * MIB, '"x"', 1.0), request)

    with serving(application, rate=150) as server:
        connections = [server.connect() for _ in range(3)]
        for each in connections:
            each.sendall(get())
        assert connections[0].recv(1)
        for each in connections:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        until(lambda: server.server.connections == 0)


def test_tls(file, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(files(file), context=server_context(certificate, key)) as server:
        for _ in range(2):
            with urllib.request.urlopen(
                f"https://127.0.0.1:{server.port}", timeout=PATIENCE, context=trusting
            ) as answer:
                assert answer.read() == file.read_bytes()
        # A plain request, a client that leaves in the handshake, and one that is silent.
        assert b"200" not in server.say(get())[:20]
        server.connect().close()
        lasting = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusting, timeout=PATIENCE)
        for place in range(3):
            lasting.request("GET", "/", headers={"Range": f"bytes={place}-{place + 9}"})
            answer = lasting.getresponse()
            assert answer.status == 206
            assert answer.read() == file.read_bytes()[place : place + 10]
        lasting.close()


def test_certificates_that_cannot_be_used_are_named(tmp_path):
    """By their own key of the configuration, and with what is wrong; nobody is asked for a password."""
    issued, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    certificate, key, wrong = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "wrong.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    wrong.write_bytes(other.private_key_pem.bytes())
    server_context(certificate, key)
    locked, junk, pipe = tmp_path / "locked.pem", tmp_path / "junk.pem", tmp_path / "pipe.pem"
    loaded = load_pem_private_key(key.read_bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    locked.write_bytes(loaded.private_bytes(*form))
    junk.write_bytes(b"junk")
    os.mkfifo(pipe)
    missing = tmp_path / "missing.pem"
    broken = tmp_path / "broken.pem"
    broken.write_bytes(certificate.read_bytes()[:200] + certificate.read_bytes()[-100:])
    for cert, private, name, path, why in (
        (missing, key, "cert_file", missing, "No such file"),
        (certificate, missing, "key_file", missing, "No such file"),
        (tmp_path, key, "cert_file", tmp_path, "Is a directory"),
        (certificate, tmp_path, "key_file", tmp_path, "Is a directory"),
        (junk, key, "cert_file", junk, "no certificate"),
        (key, certificate, "cert_file", key, "no certificate"),
        (broken, key, "cert_file", broken, ""),
        (certificate, None, "cert_file", certificate, "no private key"),
        (certificate, junk, "key_file", junk, "no private key"),
        (certificate, pipe, "key_file", pipe, "no private key"),
        (certificate, wrong, "key_file", wrong, "is not that of the certificate"),
        (certificate, locked, "key_file", locked, "password"),
    ):
        with pytest.raises(ConfigError, match=rf"serve\.{name}: {re.escape(str(path))} .*{why}") as found:
            server_context(cert, private)
        assert found.value.hint
        # The wrong file is no fault that passes by itself.
        assert exit_status(found.value) == os.EX_CONFIG


def test_refusals_are_of_the_application():
    def application(request):
        raise HttpError(418, "a teapot", headers=[("X-Tea", "green")])

    with serving(application) as server:
        answer = server.say(get())
    assert status_of(answer) == 418
    assert b"X-Tea: green\r\n" in answer
    assert answer.endswith(b"a teapot\n")


def drip(connected):
    for _ in range(100):
        connected.sendall(b"a")
        time.sleep(0.05)


def test_a_body_that_drips_is_too_slow():
    """Bytes count, and not reads."""
    limits = replace(LIMITS, min_rate=512, rate_seconds=0.3)
    with serving(echo, limits) as server, server.connect() as connected:
        connected.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            drip(connected)


def test_a_failure_of_the_application_is_answered():
    def application(request):
        raise OSError(24, "Too many open files")

    with serving(application) as server:
        answer = server.say(get())
    assert status_of(answer) == 503
    assert b"open files" not in answer
