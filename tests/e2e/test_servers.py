"""Images from servers with their own ways: some rows of docs/servers.md, by the daemon and the client."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.nginx import Nginx

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
