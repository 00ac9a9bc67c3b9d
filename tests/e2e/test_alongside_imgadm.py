"""The real daemon and client beside somebody who works as imgadm does, on the same pool, files and locks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import started, until
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL
from tests.support.lock_holder import LockHolder
from tests.support.other_writer import OtherWriter


class SharingDaemon(Daemon):
    """imgstored whose pool others change, too."""

    def start(self, *, dies: str | None = None) -> None:
        assert dies is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.shared_pool", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers, seconds=15)


@pytest.fixture
def daemon(tmp_path, served):
    with SharingDaemon(tmp_path / "store", config=static_source(served.url)) as running:
        yield running


@pytest.fixture
def imgadm(tmp_path, daemon):
    state = daemon.folder / "state"
    return OtherWriter(tmp_path / "other", pool=state / "pool", manifests=state / "imgadm" / "images")


def test_what_imgadm_installs_and_deletes_is_seen(daemon, imgadm):
    assert daemon.imgctl("list").stdout == ""
    imgadm.install(BASE)
    assert BASE in daemon.imgctl("list", check=True).stdout
    assert (daemon.images / BASE / "manifest.json").exists()
    assert "is already installed, skipping" in daemon.imgctl("import", BASE, check=True).stdout

    imgadm.manifest(BASE).write_text("{ no JSON")
    assert daemon.imgctl("list", "-H", "-o", "uuid,name", check=True).stdout.split() == [BASE, "-"]
    assert imgadm.manifest(BASE).read_text() == "{ no JSON"
    assert "cannot read an image's manifest" in daemon.log.read_text()

    imgadm.delete(BASE)
    assert daemon.imgctl("delete", BASE).returncode == 3
    assert daemon.imgctl("list").stdout == ""
    assert not (daemon.images / BASE).exists()


@pytest.mark.slow
def test_an_import_waits_for_imgadms_and_takes_what_that_has_installed(daemon, imgadm):
    with LockHolder(daemon.folder / "state" / "locks", BASE) as lock:
        client = started(daemon, "import", INCREMENTAL)
        until(lambda: "waiting for an image's lock" in daemon.log.read_text())
        imgadm.install(BASE)
        lock.release()
        out, err = client.communicate(timeout=20)
    assert client.returncode == 0, err
    lines = out.splitlines()
    assert f"Waiting for image {BASE} import lock" in lines
    assert f"Image {BASE} (base@1.0.0) was imported while waiting on lock" in lines
    assert lines[-1] == f"Imported image {INCREMENTAL} (incremental@1.0.0)"
    assert f"Imported image {BASE} (base@1.0.0)" not in lines
    assert daemon.imgctl("get", INCREMENTAL).returncode == 0


@pytest.mark.slow
def test_the_view_follows_imgadm_by_itself(daemon, imgadm):
    imgadm.install(BASE)
    until(lambda: (daemon.images / BASE / "manifest.json").exists(), seconds=20)
