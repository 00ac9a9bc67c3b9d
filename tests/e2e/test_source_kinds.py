"""An import from each kind of image server, with the real daemon."""

from __future__ import annotations

import pytest

from tests.sources.test_dsapi import DsapiServer
from tests.sources.test_imgapi import ImgapiServer
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL


@pytest.mark.parametrize("kind", [ImgapiServer, DsapiServer], ids=["imgapi", "dsapi"])
def test_an_image_and_its_origin_come_from_it(kind, site, start_nginx, tmp_path):
    server = kind(site, start_nginx)
    server.add_all()
    with Daemon(tmp_path / "store", top="sources = []") as daemon:
        added = daemon.imgctl("sources", "-a", server.nginx.url, "-t", server.type)
        assert added.stdout == f'Added "{server.type}" image source "{server.nginx.url}"\n'
        assert " true  -" in daemon.imgctl("sources", "-c").stdout
        assert daemon.imgctl("avail", "-H", "-o", "uuid").stdout.count("\n") == 4
        assert daemon.imgctl("import", INCREMENTAL, check=True).stdout.count("Imported image") == 2
        assert daemon.imgctl("list", "-H", "-o", "uuid,source").stdout.splitlines() == [
            f"{BASE}  {server.nginx.url}",
            f"{INCREMENTAL}  {server.nginx.url}",
        ]
