"""What hostile clients, careless ones, and two at once get from the real server; and that it goes on."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import made_image
from tests.e2e.test_fairness import open_files
from tests.e2e.test_on_demand import until
from tests.e2e.test_serve_publish import TOKEN, Server
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE, everything
from tests.support.image_site import BASE, fixture_file, fixture_manifest
from tests.support.nginx import free_port

MIB = 1 << 20
BIG = "22222222-aaaa-4bbb-8ccc-0000000000b1"


@pytest.fixture
def server(tmp_path):
    port = free_port()
    config = f'[serve]\nlisten = "127.0.0.1:{port}"\ntokens = {{ ci = "{TOKEN}" }}\n'
    with Daemon(tmp_path / "server", config=config) as daemon:
        yield Server(daemon, port)


def say(server, data):
    """What the server answers until it closes the connection: the first answer's status, and its body."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connected:
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        answer = everything(connected)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return int(head.split()[1]), head, body[: int(length.split()[1])]


def get(target, *lines):
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def put(length, *lines, token=TOKEN):
    allowed = [] if token is None else [f"Authorization: Bearer {token}"]
    path = f"/images/{BASE}/file?compression=gzip"
    head = [f"PUT {path} HTTP/1.1", "Host: x", *allowed, f"Content-Length: {length}", *lines, "", ""]
    return "\r\n".join(head).encode()


PATHS = (
    "/images/../../../../etc/passwd",
    "/images/..%2f..%2f..%2fetc%2fpasswd",
    "/images/%2e%2e/%2e%2e/imgstored.toml",
    "//etc/passwd",
    "/images//file",
    f"/images/{BASE}/file%00",
    f"/images/{BASE}/entry.json",
    f"/images/{BASE}/manifest.json",
    f"/images/{BASE.upper()}x",
    f"/images/{BASE}%0d%0aSet-Cookie:x",
    f"/datasets/{BASE}/..%2fentry.json",
    f"/datasets/{BASE}/entry.json",
    "/view/..%2f..%2fetc%2fpasswd",
    f"/view/{BASE[:-1]}",
    "/pages/list.html",
    "/%ff%fe%00",
    "/" + "a" * 8000,
    "/.coming-" + BASE,
)


def test_no_path_leads_anywhere_else(server):
    server.publish(BASE)
    for path in PATHS:
        status, head, body = say(server, get(path))
        assert status == 404, path
        assert json.loads(body)["code"] == "ResourceNotFound", path
        assert b"\r\nSet-Cookie" not in head
        assert str(server.daemon.folder).encode() not in body
    # A proxy's form of a request for this server is one, whatever it calls the server.
    assert say(server, get(f"http://other.example/images/{BASE}", "Connection: close"))[0] == 200


HEADS = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "BadRequestError"),
    (b"nonsense\r\n\r\n", 400, "BadRequestError"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, "BadRequestError"),
    (get("/", "A: " + "b" * 40_000), 431, "InvalidHeader"),
    (get("/", *["A: b"] * 5000), 431, "InvalidHeader"),
    (get("/" + "a" * 40_000), 431, "InvalidHeader"),
    (get("/images", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "BadRequestError"),
    (get("/images", "Content-Length: 1", "Content-Length: 2"), 400, "BadRequestError"),
    (get("/images", "Transfer-Encoding: gzip"), 501, "NotImplemented"),
    (get("/images", "Content-Length: 99999999999999999999999"), 400, "BadRequestError"),
    (get("/images?" + "&".join(["a=b"] * 100)), 422, "InvalidParameter"),
    (get("/images?marker=%00"), 422, "InvalidParameter"),
    (b"BREW /images HTTP/1.1\r\nHost: x\r\n\r\n", 405, "BadMethod"),
    (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "BadMethod"),
)


def test_what_is_no_request_is_refused_in_imgapis_form(server):
    server.publish(BASE)
    files = open_files(server.daemon.pid)
    for data, status, code in HEADS:
        found, head, body = say(server, data)
        assert (found, json.loads(body)["code"]) == (status, code), data[:60]
        assert b"application/json" in head
    assert server.ask("GET", f"/images/{BASE}/file", token=None) == (200, fixture_file(BASE).read_bytes())
    until(lambda: open_files(server.daemon.pid) <= files)
    assert "by a mistake" not in server.daemon.log.read_text()


def test_lengths_that_are_wrong(server):
    file = fixture_file(BASE).read_bytes()
    assert server.ask("POST", f"/images/{BASE}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
    sha1 = fixture_manifest(BASE)["files"][0]["sha1"]
    whole = f"/images/{BASE}/file?compression=gzip&sha1={sha1}"
    # Too long: the client leaves before its end. Too short: not the file that it meant.
    assert say(server, put(len(file) + 1) + file)[0] == 400
    cut = put(1000).replace(b"compression=gzip", f"compression=gzip&sha1={sha1}".encode())
    status, _, body = say(server, cut + file[:1000])
    assert (status, json.loads(body)["code"]) == (400, "Upload")
    assert say(server, put(0))[0] == 400
    assert say(server, put(1 << 40) + file[:1000])[0] in (400, 413, 503)
    # What follows a body is a request of its own, without the token of the one before.
    following = f"DELETE /images/{BASE} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connected:
        connected.sendall(cut + file[:1000] + following)
        connected.shutdown(socket.SHUT_WR)
        answers = everything(connected)
    assert re.findall(rb"HTTP/1\.1 ([0-9]+) ", answers) == [b"400", b"401"]
    assert server.ask("GET", f"/images/{BASE}")[1].get("files") is None
    assert server.ask("PUT", whole, file)[0] == 200


def test_who_may_not_publish_uploads_nothing(server):
    """The refusal comes before the body, so that nobody fills the disk, or waits for a slow one."""
    assert server.ask("POST", f"/images/{BASE}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
        slow.sendall(put(1 << 30, "Expect: 100-continue", token="no-token-of-this-server"))
        assert slow.recv(1000).startswith(b"HTTP/1.1 401 ")
    library = server.daemon.folder / "state" / "library"
    assert [path.name for path in library.iterdir()] == [BASE]


def test_one_of_several_publishers_makes_an_image(server):
    manifest = json.dumps(fixture_manifest(BASE))
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: server.ask("POST", f"/images/{BASE}?action=import", manifest), range(8))
        )
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert {answer["code"] for status, answer in answers if status == 409} == {"ImageUuidAlreadyExists"}


@pytest.mark.parametrize("other", ["uploads", "activates", "deletes", "changes"])
def test_an_upload_beside_another_publisher(server, other):
    """Whoever ends later finds that the image is not the one that it began with."""
    file = fixture_file(BASE).read_bytes()
    _, longer = made_image(BIG, size=MIB)
    path = f"/images/{BASE}"
    library = server.daemon.folder / "state" / "library"
    assert server.ask("POST", f"{path}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
        slow.sendall(put(len(longer)) + longer[:1000])
        until(lambda: any(each.name.startswith(".new-") for each in library.iterdir()))
        if other in ("uploads", "activates"):
            assert server.ask("PUT", f"{path}/file?compression=gzip", file)[0] == 200
        if other == "activates":
            assert server.ask("POST", f"{path}?action=activate")[0] == 200
        if other == "deletes":
            assert server.ask("DELETE", path)[0] == 204
        if other == "changes":
            assert server.ask("POST", f"{path}?action=update", b'{"description": "x"}')[0] == 200
        slow.sendall(longer[1000:])
        slow.shutdown(socket.SHUT_WR)
        status = int(everything(slow).split()[1])
    names = [each.name for each in library.iterdir()]
    if other == "deletes":
        assert (status, names) == (409, [])
        return
    assert names == [BASE]
    described = server.ask("GET", path)[1]["files"][0]
    served = server.ask("GET", f"{path}/file")[1]
    assert len(served) == described["size"]
    if other == "activates":
        assert (status, served) == (409, file)
    else:
        # As long as the image is not active, its publishers may give it another file.
        assert served == (longer if status == 200 else file)
