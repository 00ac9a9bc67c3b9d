"""An import from each kind of image server, with the real daemon."""

from __future__ import annotations

import pytest

from tests.sources.test_dsapi import DsapiServer
from tests.sources.test_imgapi import ImgapiServer
from tests.sources.test_oci import RegistryServer
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.image_site import BASE, INCREMENTAL


@pytest.fixture
def registry(tmp_path):
    with DockerRegistry(tmp_path / "registry") as started:
        yield started


@pytest.mark.parametrize(
    "kind", [ImgapiServer, DsapiServer, RegistryServer], ids=["imgapi", "dsapi", "registry"]
)
def test_an_image_and_its_origin_come_from_it(kind, site, start_nginx, registry, tmp_path):
    server = kind(site, start_nginx, *([registry] if kind is RegistryServer else []))
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
