"""Images from servers with their own ways: some rows of docs/servers.md, by the daemon and the client."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE
from tests.support.nginx import Nginx
from tests.support.socks_proxy import SocksProxy

MADE = "44444444-aaaa-4bbb-8ccc-00000000000b"

WAYS = {
    "ranges refused": "if ($http_range) { return 403; }",
    "two connections": "limit_conn two 2; limit_conn_status 403; limit_rate 4m; sendfile_max_chunk 64k;",
    "encoded": 'add_header Content-Encoding "x-gzip";',
}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_comes_from_a_server_with_its_own_ways(served, tmp_path, way):
    served.pages.add(*made_image(MADE, size=8 << 20))
    limits = "limit_conn_zone $binary_remote_addr zone=two:1m;"
    with (
        Nginx(tmp_path / "odd", root=served.pages.folder, extra=WAYS[way], http=limits) as nginx,
        Daemon(tmp_path / "store", config=static_source(nginx.url)) as daemon,
    ):
        result = daemon.imgctl("import", MADE)
        assert (result.returncode, result.stderr) == (0, "")
        assert (403 in {hit.status for hit in nginx.settled_hits()}) == (way != "encoded")


def test_with_a_clients_certificate(served, tmp_path):
    with Nginx(tmp_path / "tls", root=served.pages.folder, tls=True, clients=True) as nginx:
        served.pages.add(*made_image(MADE, size=1 << 20))
        trusted = {"ca_file": str(nginx.ca_file)}
        named = {
            "cert_file": str(nginx.folder / "client.pem"),
            "key_file": str(nginx.folder / "client.key"),
        }
        with Daemon(tmp_path / "known", config=static_source(nginx.url, **trusted, **named)) as daemon:
            assert daemon.imgctl("import", MADE).returncode == 0
        with Daemon(tmp_path / "unknown", config=static_source(nginx.url, **trusted)) as daemon:
            assert daemon.imgctl("import", MADE).returncode == 1


def test_a_web_page_is_no_image_server(served, tmp_path):
    (served.pages.folder / "ping").write_text("<!DOCTYPE html><html>It works!</html>")
    with Daemon(tmp_path / "store") as daemon:
        refused = daemon.imgctl("sources", "-a", served.url)
        assert refused.returncode == 1
        assert "but a web page (HTML)" in refused.stderr
        assert "Expecting value" not in refused.stderr


def test_one_damaged_manifest_hides_no_other(served, tmp_path):
    index = served.pages.folder / "index.html"
    broken = "99999999-aaaa-4bbb-8ccc-000000000001"
    index.write_text(f'{index.read_text()[:-1]}, {{"v": 2, "uuid": "{broken}", "n": 1e999}}]')
    said = (
        f"1 entry of the list of {served.url} is unusable, and left out ({broken}: a number that is too large"
    )
    with Daemon(tmp_path / "store", config=static_source(served.url)) as daemon:
        listed = daemon.imgctl("avail", "-H", "-o", "uuid")
        assert (listed.returncode, len(listed.stdout.split())) == (0, 3)
        assert said in listed.stderr
        assert said in daemon.imgctl("sources", "-c").stderr
        assert daemon.imgctl("import", BASE).returncode == 0
        refused = daemon.imgctl("import", broken)
        assert refused.returncode == 1
        assert "manifest is invalid: a number that is too large" in refused.stderr
        assert "tell its operator" in refused.stderr
        assert said in daemon.imgctl("import", "nothing-of-this-name").stderr
        examined = json.loads(daemon.imgctl("doctor", "-j", timeout=60).stdout)["findings"]
        assert any(said in finding["seen"] for finding in examined)
        assert daemon.log.read_text().count("a source's list is incomplete") == 1


def test_a_list_that_may_be_cut(start_faulty, tmp_path):
    """A server that gives 50 images at a time, and knows no pages."""
    known = [{"v": 2, "uuid": f"33333333-aaaa-4bbb-8ccc-{number:012x}", "name": "x"} for number in range(70)]

    def answer(request, wire):
        url = urlsplit(request.target)
        if url.path == "/ping":
            body: object = {"ping": "pong", "imgapi": True}
        elif url.path == "/images":
            body = known[: min(50, int(parse_qs(url.query)["limit"][0]))]
        else:
            return wire.reply("404 Not Found", {}, b"")
        return wire.reply("200 OK", {}, json.dumps(body).encode())

    server = start_faulty(answer)
    said = f"the list of {server.url} may be cut: the server gives 50 images, and no further pages"
    source = static_source(server.url).replace("static", "imgapi")
    with Daemon(tmp_path / "store", config=source) as daemon:
        listed = daemon.imgctl("avail", "-H")
        assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 50)
        assert said in listed.stderr
        assert said in daemon.imgctl("sources", "-c").stderr
        assert said in daemon.imgctl("import", "nothing-of-this-name").stderr


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("login", [None, ("user", "pass word")])
def test_through_a_socks_proxy(served, tmp_path, secure, login):
    """The list, the manifest and the file; the proxy resolves the name, and its replies come in pieces."""
    served.pages.add(*made_image(MADE, size=8 << 20))
    with (
        Nginx(tmp_path / "behind", root=served.pages.folder, tls=secure) as nginx,
        SocksProxy(login=login) as proxy,
    ):
        credentials = "" if login is None else "user:pass%20word@"
        settings = {"proxy": f"socks5://{credentials}{proxy.address}"}
        if secure:
            settings["ca_file"] = str(nginx.ca_file)
        url = nginx.url.replace("127.0.0.1", "localhost")
        with Daemon(tmp_path / "store", config=static_source(url, **settings)) as daemon:
            assert len(daemon.imgctl("avail", "-H").stdout.splitlines()) == 4
            result = daemon.imgctl("import", MADE)
            assert (result.returncode, result.stderr) == (0, "")
            assert daemon.imgctl("verify", MADE).returncode == 0
            assert "pass word" not in daemon.log.read_text()
            assert "pass%20word" not in daemon.log.read_text()
        assert set(proxy.seen) == {f"localhost:{nginx.port}"}
        # The list, and several connections for the file.
        assert len(proxy.seen) > 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"refuse": True}, "refuses the connection (connection not allowed by ruleset)"),
        ({"login": ("user", "other")}, "refuses the credentials"),
    ],
)
def test_a_socks_proxy_that_refuses(served, tmp_path, settings, words):
    with SocksProxy(**settings) as proxy:
        source = static_source(served.url, proxy=f"socks5://user:do-not-print@{proxy.address}")
        with Daemon(tmp_path / "store", config=source) as daemon:
            for command in (("avail",), ("import", MADE)):
                refused = daemon.imgctl(*command)
                assert refused.returncode == 1
                assert f"the proxy socks5://{proxy.address} {words}" in refused.stderr
                assert "do-not-print" not in refused.stderr
            assert "do-not-print" not in daemon.log.read_text()
