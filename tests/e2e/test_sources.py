"""Several sources, some of them broken."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, ImageSite, fixture_manifest
from tests.support.nginx import Nginx

MADE = "44444444-aaaa-4bbb-8ccc-000000000003"
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


def test_a_source_that_is_down_hides_nothing(served, tmp_path):
    with Daemon(tmp_path / "store", config=static_source(CLOSED) + static_source(served.url)) as daemon:
        assert daemon.imgctl("import", BASE).returncode == 0
        available = daemon.imgctl("avail")
        assert BASE in available.stdout
        assert CLOSED in available.stderr


def test_avail_answers_from_the_last_good_list(daemon, served):
    assert BASE in daemon.imgctl("avail").stdout
    served.nginx.stop()
    available = daemon.imgctl("avail")
    assert BASE in available.stdout
    assert served.url in available.stderr


def test_a_mirror_that_lies_is_given_up_for_one_that_does_not(served, tmp_path):
    manifest, file = made_image(MADE, size=8 << 20)
    served.pages.add(manifest, file)
    lying = ImageSite(tmp_path / "lying")
    lying.add(manifest, file[:-1000] + bytes(1000))
    with (
        Nginx(tmp_path / "lying-nginx", root=lying.folder) as liar,
        Daemon(tmp_path / "store", config=static_source(liar.url) + static_source(served.url)) as daemon,
    ):
        assert daemon.imgctl("import", MADE).returncode == 0


@pytest.mark.parametrize("verify", ["streaming", "first"])
def test_both_policies_install(served, tmp_path, verify):
    config = static_source(served.url, verify=verify)
    with Daemon(tmp_path / "store", config=config) as daemon:
        assert daemon.imgctl("import", BASE).returncode == 0


def test_over_tls_with_an_authority_of_its_own(served, tmp_path):
    with Nginx(tmp_path / "tls-nginx", root=served.pages.folder, tls=True) as nginx:
        trusted = static_source(nginx.url, ca_file=str(nginx.ca_file))
        with Daemon(tmp_path / "trusting", config=trusted) as daemon:
            assert daemon.imgctl("import", BASE).returncode == 0
        with Daemon(tmp_path / "wary", config=static_source(nginx.url)) as daemon:
            refused = daemon.imgctl("import", BASE)
            assert refused.returncode == 1
            assert "certificate" in refused.stderr


def test_a_server_without_ranges_is_enough(served, tmp_path):
    with (
        Nginx(tmp_path / "plain-nginx", root=served.pages.folder, ranges=False) as nginx,
        Daemon(tmp_path / "store", config=static_source(nginx.url)) as daemon,
    ):
        assert daemon.imgctl("import", BASE).returncode == 0


def test_a_manifest_cannot_name_a_path(served, daemon):
    manifest = fixture_manifest(BASE) | {"uuid": "../../../../tmp/x"}
    served.pages.manifests.append(manifest)
    served.pages._write_list()
    assert daemon.imgctl("avail").stdout.count("\n") >= 3
    assert "/tmp/x" not in daemon.imgctl("avail").stdout
