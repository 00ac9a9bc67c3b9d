"""One daemon imports from nginx and serves; others, curl, and imgadm's own requests get images from it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from imgstored.zstream.reader import StreamReader
from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.full import small
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import free_port

MIB = 1 << 20
MADE = "22222222-aaaa-4bbb-8ccc-000000000031"
MISSING = "11111111-aaaa-4bbb-8ccc-0000000000ff"


class Serving:
    def __init__(self, daemon, url):
        self.daemon = daemon
        self.url = url

    def get(self, path, **headers):
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


@contextmanager
def image_server(folder, config="", *, keep=100):
    port = free_port()
    settings = f'[library]\nkeep_mib = {keep}\n[serve]\nlisten = "127.0.0.1:{port}"\n'
    with Daemon(folder, config=config + settings) as daemon:
        yield Serving(daemon, f"http://127.0.0.1:{port}")


@pytest.fixture
def serving(tmp_path, served):
    with image_server(tmp_path / "server", static_source(served.url)) as server:
        for uuid in (INCREMENTAL, ZVOL):
            assert server.daemon.imgctl("import", uuid).returncode == 0
        yield server


@pytest.mark.parametrize("kind", ["imgapi", "dsapi"])
def test_another_host_imports_from_it(tmp_path, serving, kind):
    with Daemon(
        tmp_path / "client", config=f'[[sources]]\nurl = "{serving.url}"\ntype = "{kind}"\n'
    ) as other:
        assert other.imgctl("sources", "-c").returncode == 0
        listed = other.imgctl("avail", "-H", "-o", "uuid").stdout.split()
        assert sorted(listed) == [BASE, INCREMENTAL, ZVOL]
        for uuid in (INCREMENTAL, ZVOL):
            done = other.imgctl("import", uuid)
            assert done.returncode == 0, done.stderr
        assert other.imgctl("verify").returncode == 0
        # In the kept file's own form: what came is what the first server had.
        with other.client() as client:
            for uuid in (BASE, INCREMENTAL, ZVOL):
                assert client.get(uuid)["manifest"]["files"] == fixture_manifest(uuid)["files"]


def test_what_imgadm_asks_for(serving):
    """Its requests in order, and what it looks at in the answers."""
    status, headers, body = serving.get("/ping", **{"Accept-Version": "~2"})
    assert (status, json.loads(body)["imgapi"]) == (200, True)
    status, headers, body = serving.get("/images?limit=1000")
    assert {image["uuid"] for image in json.loads(body)} == {BASE, INCREMENTAL, ZVOL}
    last = json.loads(body)[-1]["uuid"]
    status, headers, body = serving.get(f"/images?limit=1000&marker={last}")
    assert [image["uuid"] for image in json.loads(body)] == [last]
    status, headers, body = serving.get(f"/images/{BASE}")
    manifest = json.loads(body)
    assert (manifest["v"], manifest["state"]) == (2, "active")
    status, headers, body = serving.get(f"/images/{BASE}/file")
    assert body == fixture_file(BASE).read_bytes()
    assert headers["Content-Length"] == str(manifest["files"][0]["size"])
    assert hashlib.sha1(body).hexdigest() == manifest["files"][0]["sha1"]
    if headers["Content-MD5"] is not None:  # computed soon after the import
        assert headers["Content-MD5"] == base64.b64encode(hashlib.md5(body).digest()).decode()


def test_what_zadm_asks_for(tmp_path, serving):
    """Its requests, by its user agent: the list, which it keeps for a day, and the file that it unpacks.

    `zadm -i URL` makes the second one alone. It looks at these fields, compares the file's SHA-1, and
    gives the decompressed file to `zfs recv`. What a server compresses on the way it unpacks once more.
    """
    host = serving.url.removeprefix("http://")
    agent = {"User-Agent": "Mojolicious (Perl)", "Accept-Encoding": "gzip", "Content-Length": "0"}
    agent_connection = http.client.HTTPConnection(host, timeout=PATIENCE)

    def ask(target):
        agent_connection.request("GET", target, headers=agent)
        answer = agent_connection.getresponse()
        body = answer.read()
        assert (answer.status, answer.headers["Content-Encoding"]) == (200, None)
        assert answer.headers["Content-Length"] == str(len(body))
        return body

    listed = json.loads(ask("/images"))
    chosen = [each for each in listed if each["type"] == "zone-dataset" and BASE in each["uuid"]]
    assert len(chosen) == 1
    (image,) = chosen
    assert {"uuid", "name", "version", "type"} <= image.keys()
    (described,) = image["files"]
    assert described["compression"] == "gzip"
    file = ask(f"/images/{image['uuid']}/file")
    agent_connection.close()
    assert hashlib.sha1(file).hexdigest() == described["sha1"]
    # The whole of a stream, and not a page, or a tarball.
    stream = StreamReader()
    stream.check(gzip.decompress(file))
    stream.finish()
    target = tmp_path / "file"
    subprocess.run(["curl", "-sfL", "-o", str(target), f"{serving.url}/images/{BASE}/file"], check=True)
    assert target.read_bytes() == file


def test_errors_are_imgapis(serving):
    for path in (
        f"/images/{MISSING}",
        f"/images/{MISSING}/file",
        "/images/nonsense",
        "/nothing",
        "/images/../x",
    ):
        status, headers, body = serving.get(path)
        assert (status, headers["Content-Type"]) == (404, "application/json"), path
        assert json.loads(body)["code"] == "ResourceNotFound"
    status, _, body = serving.get("/images?limit=x")
    assert status == 422
    refused = json.loads(body)
    assert refused["code"] == "InvalidParameter"
    assert [error["field"] for error in refused["errors"]] == ["limit"]


def test_conditional_requests_of_manifests(serving):
    headers = serving.get(f"/images/{BASE}")[1]
    assert serving.get(f"/images/{BASE}", **{"If-None-Match": headers["ETag"]})[0] == 304
    assert serving.get(f"/images/{BASE}", **{"If-None-Match": '"x"'})[0] == 200


def test_curl_downloads_in_parts(tmp_path, serving):
    url = f"{serving.url}/images/{BASE}/file"
    target = tmp_path / "file"
    target.write_bytes(fixture_file(BASE).read_bytes()[:1000])
    subprocess.run(["curl", "-sf", "-C", "-", "-o", str(target), url], check=True, timeout=PATIENCE)
    assert target.read_bytes() == fixture_file(BASE).read_bytes()


def test_status_and_metrics_show_what_is_kept_and_served(tmp_path, served):
    config = static_source(served.url) + '[metrics]\nlisten = "unix:' + str(tmp_path / "m.sock") + '"\n'
    served.pages.add(*made_image(MADE, size=MIB))
    with image_server(tmp_path / "server", config, keep=2) as server:
        ctl = server.daemon.imgctl
        for uuid in (BASE, ZVOL, MADE):
            ctl("import", uuid, check=True)
        file = fixture_manifest(ZVOL)["files"][0]
        assert len(server.get(f"/images/{ZVOL}/file")[2]) == file["size"]
        server.get("/ping")

        def status():
            with server.daemon.client() as client:
                return client.status()

        until(lambda: status()["server"]["connections"] == 0)
        found = status()
        library, http = found["library"], found["server"]
        # There is room for two of the three.
        assert (library["images"], library["evicted"], library["budget"]) == (2, 1, 2 * MIB)
        assert library["evicted_bytes"] == fixture_manifest(BASE)["files"][0]["size"]
        assert library["kept"] == library["size"] <= 2 * MIB
        assert (http["listen"], http["requests"], http["refused"]) == (server.url[7:], 2, 0)
        assert file["size"] < http["sent_bytes"] < file["size"] + 2000
        shown = ctl("status").stdout
        assert "Library: 2 images of " in shown
        assert "1 file evicted" in shown
        assert f"Image server at {server.url[7:]}: 0 connections, 2 requests, " in shown
        assert "Library: 2 images of " in ctl("du").stdout
        metrics = subprocess.run(
            ["curl", "-sf", "--unix-socket", str(tmp_path / "m.sock"), "http://x/metrics"],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        ).stdout  # fmt: skip
        for line in (
            "imgstored_library_images 2.0",
            "imgstored_library_evicted_total 1.0",
            "imgstored_server_requests_total 2.0",
            f"imgstored_server_sent_bytes_total {float(http['sent_bytes'])}",
        ):
            assert line in metrics


def test_writing_is_refused(serving):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        host = serving.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        connection.request(method, f"/images/{BASE}", body=b"{}")
        answer = connection.getresponse()
        assert answer.status == (405 if method == "PATCH" else 403), method
        answer.read()
        connection.close()
    assert serving.get(f"/images/{BASE}")[0] == 200


def test_an_installed_image_without_its_file_says_so(tmp_path, served):
    with image_server(tmp_path / "server", static_source(served.url), keep=0) as server:
        assert server.daemon.imgctl("import", BASE).returncode == 0
        status, _, body = server.get(f"/images/{BASE}")
        assert status == 404
        assert "imgctl export" in json.loads(body)["message"]
        assert json.loads(server.get("/images")[2]) == []


def test_it_serves_on_after_kill_9(tmp_path, served):
    with image_server(tmp_path / "server", static_source(served.url)) as server:
        assert server.daemon.imgctl("import", BASE).returncode == 0
        server.daemon.kill()
        server.daemon.start()
        assert server.get(f"/images/{BASE}/file")[2] == fixture_file(BASE).read_bytes()


def test_an_address_that_is_taken_is_named(tmp_path):
    with image_server(tmp_path / "first") as first:
        listen = first.url.removeprefix("http://")
        second = Daemon(tmp_path / "second", config=f'[serve]\nlisten = "{listen}"\n')
        with pytest.raises(RuntimeError, match=r"serve\.listen: cannot listen at"):
            second.start()


def test_a_pinned_image_keeps_its_file(tmp_path, served):
    manifest, file = made_image(MADE, size=3 << 20)
    served.pages.add(manifest, file)
    with image_server(tmp_path / "server", static_source(served.url), keep=4) as server:
        for uuid in (ZVOL, BASE):
            assert server.daemon.imgctl("import", uuid).returncode == 0
        assert server.daemon.imgctl("pin", ZVOL).returncode == 0
        assert server.daemon.imgctl("import", MADE).returncode == 0
        found = {image["uuid"] for image in json.loads(server.get("/images")[2])}
        assert found == {ZVOL, MADE}


def test_a_private_image_is_for_nobody_without_a_token(tmp_path, served):
    manifest, file = made_image(MADE, size=1 << 20, public=False)
    served.pages.add(manifest, file)
    with image_server(tmp_path / "server", static_source(served.url)) as server:
        for uuid in (BASE, MADE):
            assert server.daemon.imgctl("import", uuid).returncode == 0
        assert [image["uuid"] for image in json.loads(server.get("/images")[2])] == [BASE]
        assert server.get("/images?public=false")[2] == b"[]"
        assert MADE not in server.get("/")[2].decode()
        for path in (f"/images/{MADE}", f"/images/{MADE}/file", f"/view/{MADE}", f"/datasets/{MADE}"):
            assert server.get(path)[0] == 404


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_library_on_another_file_system_and_one_that_cannot_be_used(tmp_path, served):
    """Files are copied there; without a library the daemon does what else it is there for."""
    with small(tmp_path / "elsewhere", size=32 << 20) as elsewhere:
        path = f'path = "{elsewhere}/library"\n'
        port = free_port()
        settings = f'[library]\nkeep_mib = 20\n{path}[serve]\nlisten = "127.0.0.1:{port}"\n'
        with Daemon(tmp_path / "one", config=static_source(served.url) + settings) as daemon:
            assert daemon.imgctl("import", BASE).returncode == 0
            server = Serving(daemon, f"http://127.0.0.1:{port}")
            assert server.get(f"/images/{BASE}/file")[2] == fixture_file(BASE).read_bytes()
    (tmp_path / "file").write_text("no folder")
    settings = f'[library]\nkeep_mib = 20\npath = "{tmp_path}/file/library"\n'
    with Daemon(tmp_path / "two", config=static_source(served.url) + settings) as daemon:
        assert daemon.imgctl("import", BASE).returncode == 0
        assert "the library cannot be used" in daemon.log.read_text()
