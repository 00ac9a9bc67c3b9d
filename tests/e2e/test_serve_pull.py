"""A rack's cache: files that the server lacks come from its sources, once, for all clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import free_port

LARGE = "22222222-aaaa-4bbb-8ccc-000000000021"
MIB = 1 << 20


def settings(port):
    return f'[library]\nkeep_mib = 200\n[serve]\nlisten = "127.0.0.1:{port}"\npull = true\n'


@contextmanager
def pulling(folder, served):
    """A server whose source is nginx: its URL, and the daemon."""
    port = free_port()
    with Daemon(folder, config=static_source(served.url) + settings(port)) as daemon:
        yield f"http://127.0.0.1:{port}", daemon


@pytest.fixture
def large(served):
    manifest, file = made_image(LARGE, size=24 * MIB)
    served.pages.add(manifest, file)
    return file


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
        return answer.read()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_host_imports_through_it_and_the_file_stays(tmp_path, served):
    with pulling(tmp_path / "rack", served) as (url, rack):
        for name in ("one", "two"):
            with Daemon(tmp_path / name, config=f'[[sources]]\nurl = "{url}"\n') as host:
                assert sorted(host.imgctl("avail", "-H", "-o", "uuid").stdout.split()) == [
                    BASE,
                    INCREMENTAL,
                    ZVOL,
                ]
                done = host.imgctl("import", INCREMENTAL)
                assert done.returncode == 0, done.stderr
        for uuid in (BASE, INCREMENTAL):
            assert served.bytes_sent_of(uuid) == fixture_file(uuid).stat().st_size
        served.nginx.stop()
        assert get(f"{url}/images/{BASE}/file") == fixture_file(BASE).read_bytes()
        assert rack.imgctl("list", "-H").stdout == ""  # it cached files, and installed nothing


def test_a_hundred_clients_and_one_download(tmp_path, served, large):
    with pulling(tmp_path / "rack", served) as (url, _), ThreadPoolExecutor(50) as clients:
        files = list(clients.map(lambda _: get(f"{url}/images/{LARGE}/file"), range(50)))
        assert all(file == large for file in files)
        parts = list(
            clients.map(
                lambda n: get(f"{url}/images/{LARGE}/file", Range=f"bytes={n * 1000}-{n * 1000 + 999}"),
                range(50),
            )
        )
        assert parts == [large[n * 1000 : n * 1000 + 1000] for n in range(50)]
    assert served.bytes_sent_of(LARGE) == len(large)


class Held:
    """A server whose source is held back: `gate` says how much of the file passes."""

    def __init__(self, url, daemon, gate):
        self.url = f"{url}/images/{LARGE}/file"
        self.daemon = daemon
        self.gate = gate


@pytest.fixture
def held(tmp_path, served, gate, large):
    port = free_port()
    with gated(served, gate, tmp_path / "rack", LARGE, more=settings(port)) as daemon:
        yield Held(f"http://127.0.0.1:{port}", daemon, gate)


def begin(url, *lines):
    """A connection that has asked for the file."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    connected = socket.create_connection((name, int(port)), timeout=PATIENCE)
    connected.sendall("\r\n".join([f"GET /{path} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
    return connected


def receive(connected, size):
    """The head, and at least so much of the body."""
    found = b""
    while len(found.partition(b"\r\n\r\n")[2]) < size:
        data = connected.recv(1 << 16)
        assert data, "cut off"
        found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return head, body


def test_clients_get_what_is_there_while_the_rest_still_comes(held, large):
    held.gate.hold(after=4 * MIB)
    with begin(held.url) as first:
        _, body = receive(first, MIB)
        assert large.startswith(body)
        # Another one asks for a part that is there; a third for one that is not, and leaves.
        assert get(held.url, Range="bytes=1000-1999") == large[1000:2000]
        begin(held.url, f"Range: bytes={20 * MIB}-").close()
        held.gate.open()
        while len(body) < len(large):
            body += first.recv(1 << 20)
        assert body == large


def test_the_end_is_held_back_until_the_checksum_is_right(tmp_path, served):
    """A source with a wrong file: every client sees a cut, nobody a whole file."""
    manifest, file = made_image(LARGE, size=4 * MIB)
    wrong = bytearray(file)
    wrong[len(file) // 2] ^= 1
    served.pages.add(manifest, bytes(wrong))

    def cut(url):
        with begin(url, "Connection: close") as client:
            found = b""
            try:
                while data := client.recv(1 << 20):
                    found += data
            except ConnectionResetError:
                pass
        return len(found.partition(b"\r\n\r\n")[2]) if b" 200 " in found[:20] else 0

    with pulling(tmp_path / "rack", served) as (url, rack), ThreadPoolExecutor(8) as clients:
        got = list(clients.map(cut, [f"{url}/images/{LARGE}/file"] * 8))
        assert all(size < len(file) for size in got), got
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{url}/images/{LARGE}/file")
        with refused.value:
            assert refused.value.code == 503
            assert json.loads(refused.value.read())["code"] == "RemoteSourceError"
        assert not (rack.folder / "state" / "library" / LARGE).exists()


def test_what_was_wrong_is_completed_by_no_range(tmp_path, served):
    """A wrong file came half, and the source has the right one by now: `curl -C -` gets no other half."""
    manifest, file = made_image(LARGE, size=4 * MIB)
    wrong = bytearray(file)
    wrong[0] ^= 1
    path = served.pages.folder / LARGE / "file"
    served.pages.add(manifest, file)
    path.write_bytes(wrong)
    port = free_port()
    with Daemon(tmp_path / "rack", config=static_source(served.url) + settings(port)) as rack:
        url = f"http://127.0.0.1:{port}/images/{LARGE}/file"
        target = tmp_path / "part"
        curl = ["curl", "-s", "-D", str(tmp_path / "head"), "-o", str(target), url]
        cut = subprocess.run(curl, timeout=PATIENCE)
        assert cut.returncode == 18  # a partial file
        assert bytes(wrong).startswith(target.read_bytes())
        etag = re.search(r"(?i)etag: (\S+)", (tmp_path / "head").read_text())[1]
        rack.stop()
        path.write_bytes(file)
        rack.start()
        assert get(url) == file
        # By If-Range it is known for other bytes; whoever gives none gets no range at all.
        assert get(url, Range="bytes=1000-", **{"If-Range": etag}) == file
        again = subprocess.run(["curl", "-sf", "-C", "-", "-o", str(target), url], timeout=PATIENCE)
        assert again.returncode == 33  # no ranges
        assert bytes(wrong).startswith(target.read_bytes())
        # Whoever has these very bytes goes on, and a host installs it.
        assert get(url, Range="bytes=1000-", **{"If-Range": head(url)}) == file[1000:]
        assert head(url) != etag
        with Daemon(tmp_path / "host", config=f'[[sources]]\nurl = "http://127.0.0.1:{port}"\n') as host:
            assert host.imgctl("import", LARGE).returncode == 0
        assert '"event": "fetched a file for others"' in rack.log.read_text()


def head(url):
    """The ETag."""
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.headers["ETag"]


def test_after_kill_9_it_goes_on_where_it_was(held, served, large):
    held.gate.hold(after=12 * MIB)
    with begin(held.url) as client:
        receive(client, 8 * MIB)
        held.daemon.kill()
    held.gate.open()
    held.daemon.start()
    before = held.gate.given
    assert get(held.url) == large
    assert held.gate.given - before < len(large) - 4 * MIB


def test_a_client_that_leaves_while_it_waits_holds_no_thread(held):
    held.gate.hold(after=MIB)
    with begin(held.url) as waiting:
        receive(waiting, 1000)
        threads = len(list(_tasks(held.daemon)))
        leaving = [begin(held.url, f"Range: bytes={20 * MIB}-") for _ in range(20)]
        until(lambda: len(list(_tasks(held.daemon))) >= threads + 15)
        for each in leaving:
            each.close()
        host = held.url.partition("/images")[0]
        # They come back, and serve others.
        with ThreadPoolExecutor(20) as clients:
            assert len(set(clients.map(lambda _: get(f"{host}/ping"), range(100)))) == 1
        held.gate.open()


def _tasks(daemon):
    return Path(f"/proc/{daemon.pid}/task").iterdir()


def test_sources_that_fail_are_said_without_their_names(tmp_path, served):
    with pulling(tmp_path / "rack", served) as (url, _):
        served.nginx.stop()
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{url}/images/{BASE}")
        with refused.value:
            answer = refused.value.read().decode()
        assert refused.value.code == 503
        assert str(served.nginx.port) not in answer
        with pytest.raises(urllib.error.HTTPError) as missing:
            get(f"{url}/images/nonsense")
        with missing.value:
            assert missing.value.code == 404


def refusal(url):
    """The message with which a file is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url)
    assert caught.value.code == 404
    return json.loads(caught.value.read())["message"]


def test_a_withdrawn_image_is_served_no_more(tmp_path, served):
    """The server that it came from has disabled it: its room is freed, or it stays for nobody if it must."""
    with pulling(tmp_path / "rack", served) as (url, rack):
        kept = rack.folder / "state" / "library"
        pages = served.pages
        pages.add(*made_image(LARGE, size=MIB))
        name = fixture_manifest(BASE)["name"]
        assert rack.imgctl("mirror", "--name", name, served.url).returncode == 0
        for uuid in (BASE, ZVOL, LARGE):
            get(f"{url}/images/{uuid}/file")
            until((kept / uuid).exists)
        pages.manifests[:] = [
            {**each, "state": "disabled", "disabled": True} if each["uuid"] != LARGE else each
            for each in pages.manifests
        ]
        pages.add(*made_image(LARGE.replace("21", "22"), size=MIB))  # writes the list
        os.kill(rack.pid, signal.SIGHUP)  # looks at once
        until(lambda: not (kept / ZVOL).exists())
        until(lambda: rack.log.read_text().count("an image was withdrawn by its source") == 2)
        assert "does not exist" in refusal(f"{url}/images/{ZVOL}/file")
        assert "was withdrawn" in refusal(f"{url}/images/{BASE}/file")
        assert "was withdrawn" in refusal(f"{url}/images/{BASE}")
        listed = {each["uuid"] for each in json.loads(get(f"{url}/images"))}
        assert not listed & {BASE, ZVOL}
        assert LARGE in listed
        assert len(get(f"{url}/images/{LARGE}/file")) > MIB // 2
        # Nobody gets a mirrored one, and it is there if it is offered again.
        assert (kept / BASE / "file").read_bytes() == fixture_file(BASE).read_bytes()
        assert not (kept / ZVOL).exists()


PRIVATE = "22222222-aaaa-4bbb-8ccc-000000000022"


def test_a_private_image_of_a_source_is_for_nobody_without_a_token(tmp_path, served):
    """This host's credentials may bring it; other hosts have none."""
    manifest, file = made_image(PRIVATE, size=1 * MIB, public=False)
    served.pages.add(manifest, file)
    token = "a-token-of-the-tests-0123456789"
    port = free_port()
    config = static_source(served.url) + settings(port) + f'tokens = {{ ops = "{token}" }}\n'
    with Daemon(tmp_path / "rack", config=config):
        url = f"http://127.0.0.1:{port}"
        for path in ("", "/file", "/icon"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"{url}/images/{PRIVATE}{path}")
        for path in ("", "/tree-1.zfs.gz"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"{url}/datasets/{PRIVATE}{path}")
        assert served.bytes_sent_of(PRIVATE) == 0
        allowed = {"Authorization": f"Bearer {token}"}
        assert json.loads(get(f"{url}/images/{PRIVATE}", **allowed))["uuid"] == PRIVATE
        assert get(f"{url}/images/{PRIVATE}/file", **allowed) == file
        # Nor is it for others once it is here.
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/images/{PRIVATE}/file")
