"""How near an address is; and no server has us ask one that is nearer to this host than itself."""

from __future__ import annotations

import pytest

from imgstored.http.addresses import Nearness, nearness, nearness_of_host
from tests.support.public_net import in_public_net

N = Nearness


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("8.8.8.8", N.PUBLIC),
        ("2001:4860::8888", N.PUBLIC),
        ("64:ff9b::808:808", N.PUBLIC),
        ("2002:808:808::1", N.PUBLIC),
        ("::ffff:8.8.8.8", N.PUBLIC),
        ("10.0.0.1", N.PRIVATE),
        ("172.16.0.1", N.PRIVATE),
        ("192.168.1.1", N.PRIVATE),
        ("100.64.0.1", N.PRIVATE),
        ("198.18.0.1", N.PRIVATE),
        ("224.0.0.1", N.PRIVATE),
        ("255.255.255.255", N.PRIVATE),
        ("fd00::1", N.PRIVATE),
        ("fec0::1", N.PRIVATE),
        ("ff02::1", N.PRIVATE),
        ("::ffff:10.0.0.1", N.PRIVATE),
        ("64:ff9b::a00:1", N.PRIVATE),
        ("64:ff9b:1::a00:1", N.PRIVATE),
        ("2002:a00:1::1", N.PRIVATE),
        ("2001::1", N.PRIVATE),
        ("169.254.169.254", N.LINK_LOCAL),
        ("::ffff:169.254.169.254", N.LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", N.LINK_LOCAL),
        ("fe80::1", N.LINK_LOCAL),
        ("fe80::1%eth0", N.LINK_LOCAL),
        ("127.0.0.1", N.LOOPBACK),
        ("127.255.0.1", N.LOOPBACK),
        ("0.0.0.0", N.LOOPBACK),
        ("0.1.2.3", N.LOOPBACK),
        ("::1", N.LOOPBACK),
        ("::", N.LOOPBACK),
        ("::ffff:127.0.0.1", N.LOOPBACK),
        ("::ffff:0:127.0.0.1", N.LOOPBACK),
        ("::127.0.0.1", N.LOOPBACK),
        ("2002:7f00:1::", N.LOOPBACK),
        ("64:ff9b::7f00:1", N.LOOPBACK),
        ("not an address", N.LOOPBACK),
    ],
)
def test_how_near_an_address_is(address, near):
    assert nearness(address) == near


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("images.example", N.PUBLIC),
        ("127.example", N.PUBLIC),
        ("localhost", N.LOOPBACK),
        ("a.localhost", N.LOOPBACK),
        ("localhost.", N.LOOPBACK),
        ("a.localhost.", N.LOOPBACK),
        ("127.1", N.LOOPBACK),
        ("0x7f.1", N.LOOPBACK),
        ("2130706433", N.LOOPBACK),
        ("0251.0376.0251.0376", N.LINK_LOCAL),
        ("10.1", N.PRIVATE),
        ("::ffff:a01:203", N.PRIVATE),
    ],
)
def test_what_a_host_says_of_itself(host, near):
    assert nearness_of_host(host) == near


# -- redirects -----------------------------------------------------------------------------------------------

#: In a network with addresses of each nearness: a server that redirects, and one that must not be asked.
SCRIPT = """
import json, socket, threading, trio
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from imgstored.errors import ClientError
from imgstored.http.documents import DocumentLimits, fetch_document
from imgstored.http.location import Access, Location
from imgstored.http.range_reply import FetchError
from imgstored.http.ranges import RangeConnection, Timeouts

seen = []

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        seen.append(self.headers["Host"])
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", "http://" + self.path[4:])
            self.send_header("Content-Length", "0")
        elif self.path == "/there":
            self.send_response(200)
            self.send_header("Content-Length", "6")
        self.end_headers()
        if self.path == "/there":
            self.wfile.write(b"inside")

class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

server = Server(("::", 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

#: Names are looked up here; "flips" is public the first time alone, "mixed" has both.
answers = {"public.test": ["8.8.8.8"], "inside.test": ["127.0.0.1"], "flips.test": ["8.8.8.8", "127.0.0.1"],
           "lan.test": ["10.1.2.3"]}
real = socket.getaddrinfo
def lookup(host, port, *rest, **named):
    host = host.decode() if isinstance(host, bytes) else host
    known = answers.get(host)
    if host == "mixed.test":
        return real("127.0.0.1", port, *rest, **named) + real("8.8.8.8", port, *rest, **named)
    if known is None:
        return real(host, port, *rest, **named)
    return real(known.pop(0) if len(known) > 1 else known[0], port, *rest, **named)
socket.getaddrinfo = lookup

def document(location):
    async def run():
        limits = DocumentLimits(tries=1)
        return (await fetch_document(location, limits=limits, environ={})).body.decode()
    return trio.run(run)

def ranges(location):
    connection = RangeConnection(location, timeouts=Timeouts(5, 5), environ={})
    got = bytearray()
    try:
        connection.get(0, None, None, lambda reply: got.extend, plain=True)
    finally:
        connection.close()
    return got.decode()

outcomes = []
for url, allowed in CASES:
    for fetch in (document, ranges):
        if "flips" in url:
            answers["flips.test"] = ["8.8.8.8", "127.0.0.1"]
        seen.clear()
        try:
            said = fetch(Location(url, url, Access(internal_redirects=allowed)))
        except (ClientError, FetchError) as error:
            said = [error.message, error.hint]
        outcomes.append([fetch.__name__, said, list(seen)])
print(json.dumps(outcomes))
"""

FROM = "http://{}:8080/to/{}:8080/there"

REFUSED = [
    ("8.8.8.8", "127.0.0.1"),
    ("8.8.8.8", "169.254.169.254"),
    ("8.8.8.8", "10.1.2.3"),
    ("8.8.8.8", "[::1]"),
    ("8.8.8.8", "[fd00::3]"),
    ("8.8.8.8", "[::ffff:127.0.0.1]"),
    ("8.8.8.8", "[::ffff:7f00:1]"),
    ("8.8.8.8", "0.0.0.0"),
    ("8.8.8.8", "[::]"),
    ("8.8.8.8", "127.1"),
    ("8.8.8.8", "2130706433"),
    ("8.8.8.8", "localhost"),
    ("8.8.8.8", "inside.test"),
    ("[2001:4860::8888]", "127.0.0.1"),
    ("public.test", "inside.test"),
    ("flips.test", "flips.test"),
    ("10.1.2.3", "127.0.0.1"),
    ("lan.test", "169.254.169.254"),
    # By way of a server that may be asked.
    ("127.0.0.1", "8.8.8.8:8080/to/127.0.0.1"),
    ("8.8.8.8", "8.8.8.8:8080/to/10.1.2.3"),
]

FOLLOWED = [
    ("8.8.8.8", "public.test"),
    ("8.8.8.8", "[2001:4860::8888]"),
    ("8.8.8.8", "mixed.test"),
    ("10.1.2.3", "[fd00::3]"),
    ("lan.test", "10.1.2.3"),
    ("10.1.2.3", "8.8.8.8"),
    ("127.0.0.1", "[::1]"),
    ("127.0.0.1", "localhost"),
    ("localhost", "169.254.169.254"),
    ("127.0.0.1", "10.1.2.3"),
    ("169.254.169.254", "10.1.2.3"),
]


def outcomes(cases):
    """Of documents and of ranges: what came, or why nothing did; and whom the server took itself for."""
    return in_public_net(f"CASES = {[(FROM.format(*pair), allowed) for *pair, allowed in cases]!r}\n{SCRIPT}")


def test_a_redirect_nearer_to_this_host_is_not_followed():
    found = outcomes([(*pair, False) for pair in REFUSED])
    assert [kind for kind, _, _ in found] == ["document", "ranges"] * len(REFUSED)
    for pair, (_, said, seen) in zip([pair for pair in REFUSED for _ in "12"], found, strict=True):
        message, hint = said
        assert message.startswith(FROM.format(*pair).partition("?")[0]), pair
        assert "leads to an internal address" in message, pair
        assert "internal_redirects" in hint
        assert len(seen) == 1 + pair[1].count("/to/"), f"{pair}: the internal server was asked"


def test_redirects_that_lead_no_nearer_are_followed():
    for kind, said, seen in outcomes([(*pair, False) for pair in FOLLOWED]):
        assert (kind, said, len(seen)) == (kind, "inside", 2), seen


def test_a_source_may_allow_all_of_them():
    pairs = [pair for pair in REFUSED if pair[0] != "flips.test"]
    for _, said, seen in outcomes([(*pair, True) for pair in pairs]):
        assert said == "inside", seen
