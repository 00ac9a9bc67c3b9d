"""A library whose disk is full: what publishers and other hosts get, and that it goes on with room."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import until
from tests.e2e.test_serve_publish import TOKEN, Server
from tests.support.daemon import Daemon
from tests.support.full import small
from tests.support.image_site import BASE, fixture_file, fixture_manifest
from tests.support.nginx import free_port

MIB = 1 << 20
LARGE = "22222222-aaaa-4bbb-8ccc-0000000000c1"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


@contextmanager
def server_on(disk, folder, config="", *, pull=False):
    """A server whose library is on the small disk, and which takes all of its room."""
    port = free_port()
    settings = (
        f'[limits]\nmin_free_mib = 0\n[library]\nkeep_mib = 100\npath = "{disk}/library"\n'
        f'[serve]\nlisten = "127.0.0.1:{port}"\npull = {str(pull).lower()}\n'
        f'tokens = {{ ci = "{TOKEN}" }}\n'
    )
    with Daemon(folder, config=config + settings) as daemon:
        yield Server(daemon, port)


def left_in(disk):
    return sorted(each.name for each in (disk / "library").iterdir())


def chunks(data):
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_that_does_not_fit_leaves_nothing(tmp_path, announced):
    """Whether the client says before how much it sends, or not."""
    _, large = made_image(LARGE, size=12 * MIB)
    with small(tmp_path / "disk", size=8 * MIB) as disk, server_on(disk, tmp_path / "server") as server:
        path = f"/images/{BASE}/file?compression=gzip"
        assert (
            server.ask("POST", f"/images/{BASE}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
        )
        status, answer = server.ask("PUT", path, large if announced else chunks(large))
        assert (status, answer["code"]) == (503, "StorageIsDown")
        assert left_in(disk) == [BASE]
        assert server.ask("GET", f"/images/{BASE}")[1]["state"] == "unactivated"
        assert server.ask("PUT", path, fixture_file(BASE).read_bytes())[0] == 200
        assert "by a mistake" not in server.daemon.log.read_text()


def test_each_change_on_a_full_disk_is_refused_and_what_was_there_stays(tmp_path):
    png = b"\x89PNG\r\n\x1a\n" + bytes(100_000)
    with small(tmp_path / "disk", size=8 * MIB) as disk, server_on(disk, tmp_path / "server") as server:
        before = server.publish(BASE)
        with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        made = json.dumps({"name": "made", "version": "1", "type": "zone-dataset", "os": "smartos"})
        update = json.dumps({"description": "d" * 400})
        for method, target, body in (
            ("POST", "/images", made),
            ("POST", f"/images/{BASE}?action=update", update),
            ("POST", f"/images/{BASE}?action=disable", b""),
            ("PUT", f"/images/{BASE}/icon", png),
        ):
            status, answer = server.ask(method, target, body)
            assert (status, answer["code"]) == (503, "StorageIsDown"), (method, target)
        assert server.ask("GET", f"/images/{BASE}")[1] == before
        assert server.ask("GET", f"/images/{BASE}/file", token=None)[1] == fixture_file(BASE).read_bytes()
        (disk / "ballast").unlink()
        assert left_in(disk) == [BASE]
        assert server.ask("PUT", f"/images/{BASE}/icon", png)[0] == 200
        assert server.ask("POST", f"/images/{BASE}?action=update", update)[0] == 200
        assert server.ask("DELETE", f"/images/{BASE}")[0] == 204
        assert "by a mistake" not in server.daemon.log.read_text()


def test_what_the_sources_have_and_the_disk_cannot_hold(tmp_path, served):
    """Whoever asks for it learns that; the next one asks in vain for a while, and all else is served."""
    manifest, large = made_image(LARGE, size=12 * MIB)
    served.pages.add(manifest, large)
    source = static_source(served.url)
    with (
        small(tmp_path / "disk", size=8 * MIB) as disk,
        server_on(disk, tmp_path / "server", source, pull=True) as server,
    ):
        status, answer = server.ask("GET", f"/images/{LARGE}/file", token=None)
        assert (status, answer["code"]) == (503, "RemoteSourceError")
        assert server.ask("GET", f"/images/{BASE}/file", token=None)[1] == fixture_file(BASE).read_bytes()
        until(lambda: BASE in left_in(disk))
        # The host itself installs it: only the copy for others has no room.
        done = server.daemon.imgctl("import", LARGE)
        assert done.returncode == 0, done.stderr
        assert server.ask("GET", f"/images/{BASE}/file", token=None)[0] == 200
        assert "by a mistake" not in server.daemon.log.read_text()
