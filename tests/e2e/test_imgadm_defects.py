"""Where imgadm is wrong, this is right: what only shows with the whole of it.

docs/imgadm.md lists imgadm's known defects, and for each the test that shows that it is not ours.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pty
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_file, fixture_manifest
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SIBLING = "33333333-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


@pytest.fixture
def bare(tmp_path: Path):
    """A daemon whose sources are those that commands add."""
    with Daemon(tmp_path / "bare") as daemon:
        daemon.imgctl("sources", "-d", "https://images.smartos.org", check=True)
        yield daemon


def test_insecure_is_insecure_and_nothing_else_is(bare, served, tmp_path):
    """imgadm has it the other way round."""
    with Nginx(tmp_path / "tls", root=served.pages.folder, tls=True) as nginx:
        refused = bare.imgctl("sources", "-a", nginx.url, "-t", "static")
        assert refused.returncode == 1
        assert "certificate" in refused.stderr
        conf = bare.folder / "state" / "imgadm" / "imgadm.conf"
        conf.write_text(json.dumps({"sources": [{"type": "static", "url": nginx.url, "insecure": False}]}))
        assert "certificate" in bare.imgctl("import", ZVOL).stderr, "insecure: false is secure"
        conf.write_text(json.dumps({"sources": []}))
        added = bare.imgctl("sources", "-k", "-a", nginx.url, "-t", "static")
        assert added.stdout == f'Added "static" image source "{nginx.url}" (insecure)\n'
        assert bare.imgctl("import", ZVOL).returncode == 0


def test_a_pool_with_a_digit_in_its_name_is_seen(served, tmp_path):
    config = '[pool]\ntype = "embedded"\nname = "tank2"\n' + static_source(served.url)
    with Daemon(tmp_path / "store", config=config) as daemon:
        daemon.imgctl("import", INCREMENTAL, check=True)
        assert daemon.imgctl("list", "-H", "-o", "zpool,clones,name").stdout == (
            "tank2  1       base\ntank2  0       incremental\n"
        )
        *deleted, freed = daemon.imgctl("vacuum", "-f").stdout.splitlines()
        assert [line.split()[2] for line in deleted] == [INCREMENTAL, BASE]
        assert freed.startswith("Freed ")


def test_siblings_that_share_an_origin_are_both_installed(daemon, served):
    """imgadm's second one fails, and takes the origin with it."""
    sibling = {**fixture_manifest(INCREMENTAL), "uuid": SIBLING, "name": "sibling"}
    served.pages.add(sibling, fixture_file(INCREMENTAL))
    results = []

    def import_(uuid: str) -> None:
        results.append(daemon.imgctl("import", uuid))

    threads = [threading.Thread(target=import_, args=(uuid,)) for uuid in (INCREMENTAL, SIBLING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    assert daemon.imgctl("list", "-H", "-o", "clones", "name=base").stdout == "2\n"


def test_a_failed_import_stops_all_of_its_downloads(tmp_path):
    """imgadm's go on until the process ends."""
    manifest, file = made_image(BASE, size=8 << 20)
    pages = ImageSite(tmp_path / "site")
    pages.add(manifest, file)
    pages.add({**fixture_manifest(INCREMENTAL), "origin": BASE}, b"")
    (pages.folder / INCREMENTAL / "file").unlink()
    with Gate(pages.folder) as gate:
        gate.hold(after=1 << 20)
        locations = {f"/{BASE}/": gate.location}
        with (
            Nginx(tmp_path / "nginx", root=pages.folder, locations=locations) as nginx,
            Daemon(tmp_path / "store", config=static_source(nginx.url)) as daemon,
        ):
            failed = daemon.imgctl("import", INCREMENTAL)
            assert failed.returncode == 1
            assert "Aborting (" in failed.stdout
            assert daemon.imgctl("jobs").stdout == ""
            assert daemon.imgctl("list").stdout == ""
        assert gate.given < len(file)


def test_install_takes_channels_and_is_quiet_on_a_terminal(daemon, tmp_path):
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({**fixture_manifest(ZVOL), "channels": ["dev"]}))
    arguments = ["install", "-q", "-m", str(manifest), "-f", str(fixture_file(ZVOL))]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "imgctl", *arguments],
        env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    out, _ = process.communicate(timeout=60)
    os.close(theirs)
    try:
        shown = os.read(ours, 65536)
    except OSError:  # nobody wrote, and nobody will
        shown = b""
    os.close(ours)
    assert process.returncode == 0
    assert out.decode().splitlines()[-1] == f"Installed image {ZVOL} (zvol@1.0.0)"
    assert shown == b"", "no bar"
    assert json.loads(daemon.imgctl("get", ZVOL).stdout)["manifest"]["channels"] == ["dev"]


def test_a_filter_on_a_number_is_no_crash(daemon, served):
    assert daemon.imgctl("avail", "-H", "-o", "name", "v=~2", "image_size=~4").stdout == "zvol\n"


def test_a_wrong_compression_in_a_manifest_is_no_matter(daemon, served):
    """It is told by the file itself; imgadm runs the program that the manifest names."""
    file = gzip.compress(gzip.decompress(fixture_file(BASE).read_bytes()))
    manifest, _ = made_image(SIBLING, size=200_000)
    entry = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "xz"}
    served.pages.add({**manifest, "files": [entry]}, file)
    assert daemon.imgctl("import", SIBLING).returncode == 0


def test_a_datasets_url_need_not_end_in_datasets(bare, served):
    """imgadm ends with a ReferenceError, as for a type that there is not."""
    wrong = bare.imgctl("sources", "-a", served.url, "-t", "bogus")
    assert 'error (ConfigError): type "bogus"' in wrong.stderr
    forced = bare.imgctl("sources", "-f", "-a", served.url, "-t", "dsapi")
    assert forced.stdout == f'Added "dsapi" image source "{served.url}"\n'
    assert bare.imgctl("sources", "-c").returncode == 0
