"""A daemon that starts while its disk is full: what works, what it says, and that it goes on by itself."""

from __future__ import annotations

import json
import os

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.full import few_inodes, small
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

MADE = "44444444-aaaa-4bbb-8ccc-00000000000a"
MIB = 1 << 20
PAGE = 4096

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class Disk:
    """A small file system with the daemon's state, which can be filled to the last page."""

    def __init__(self, folder):
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free(self):
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, left=0):
        with self._ballast.open("ab", buffering=0) as file:
            while self.free > left:
                file.write(bytes(min(MIB, self.free - left)))

    def clear(self):
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    with small(tmp_path / "disk", 48 * MIB) as folder:
        yield Disk(folder)


def on(disk, daemon):
    """The daemon with its state on that disk, all else elsewhere, and without a reserve."""
    limits = "[limits]\nmin_free_mib = 0\n"
    head, _, tail = daemon.config_file.read_text().partition("[limits]\n")
    head = head.replace(f"{daemon.folder}/state", f"{disk.folder}/state")
    daemon.config_file.write_text(head + limits + tail)
    return daemon


def problems(daemon):
    return json.loads(daemon.imgctl("status", "-j").stdout)["problems"]


@pytest.mark.parametrize("left", [0, 1, 4], ids="{} pages left".format)
def test_it_starts_and_goes_on_when_there_is_room(tmp_path, served, disk, left):
    daemon = on(disk, Daemon(tmp_path / "store", config=static_source(served.url)))
    with daemon:
        daemon.imgctl("import", BASE, check=True)
        daemon.imgctl("import", ZVOL, check=True)
        assert daemon.stop() == 0
        disk.fill(left * PAGE)
        daemon.start()
        # What is installed can be seen, and deleted.
        assert json.loads(daemon.imgctl("get", BASE).stdout)["manifest"]["uuid"] == BASE
        assert len(json.loads(daemon.imgctl("list", "-j").stdout)) == 2
        # What needs the journal says why, and what to do.
        refused = daemon.imgctl("import", "-S", served.url, INCREMENTAL)
        assert refused.returncode == 1
        assert "imports wait for the journal: there is no room left" in refused.stderr
        assert "hint: free space" in refused.stderr
        # Whoever looks is told.
        (journal, history, events) = problems(daemon)
        assert {journal["code"], history["code"], events["code"]} == {"NoSpace"}
        assert "journal.sqlite" in journal["message"]
        assert "history.sqlite" in history["message"]
        assert "events.sqlite" in events["message"]
        assert "events.sqlite" in daemon.imgctl("events", "--since", "0", "--no-follow").stderr
        told = daemon.imgctl("status")
        assert told.returncode == 1
        assert "there is no room left for" in told.stdout
        found = json.loads(daemon.imgctl("doctor", "-j").stdout)["findings"]
        assert [f["status"] for f in found if f["check"] == "state"] == ["fail"] * 3
        assert "imports wait for the journal" in daemon.log.read_text()
        # A deletion makes room, and the daemon goes on by itself.
        daemon.imgctl("delete", ZVOL, check=True)
        assert disk.free > 256 << 10
        until(lambda: problems(daemon) == [], seconds=30)
        disk.clear()
        daemon.imgctl("import", ZVOL, check=True)
        with daemon.client() as client:
            done = [(entry["action"], entry["uuid"]) for entry in client.history()]
        # Also what happened while the history could not be written.
        assert done == [
            ("import", BASE),
            ("import", ZVOL),
            ("import", INCREMENTAL),  # which was refused
            ("delete", ZVOL),
            ("import", ZVOL),
        ]
        with daemon.client() as client:
            names = [event["event"] for event in client.events(0, follow=False)]
        assert names[-1] == "installed"
        assert {"deleted", "import-failed"} <= set(names)
        assert daemon.stop() == 0


def test_an_import_that_was_under_way_goes_on_then(tmp_path, served, gate, disk):
    manifest, file = made_image(MADE, size=8 * MIB)
    served.pages.add(manifest, file)
    gate.hold(after=len(file) // 2)
    with gated(served, gate, tmp_path / "slow", MADE) as daemon:
        daemon.stop()
        on(disk, daemon).start()
        client = started(daemon, "import", MADE)
        until(lambda: any(job["done"] > len(file) // 3 for job in jobs(daemon)), seconds=30)
        # A daemon that is killed leaves SQLite's files, which may be all that the next one needs.
        assert daemon.stop() == 0
        client.communicate(timeout=30)
        disk.fill()
        gate.open()
        daemon.start()
        assert jobs(daemon) == []
        # An image file needs no journal, but there is no room for it; and it does no harm to what waits.
        manifest_file = tmp_path / "base.json"
        manifest_file.write_text(json.dumps(fixture_manifest(BASE)))
        assert daemon.imgctl("install", "-m", str(manifest_file), "-f", str(fixture_file(BASE))).returncode
        assert (disk.folder / "state" / "spool" / f"zones-{MADE}").exists()
        sent = served.bytes_sent()
        disk.clear()
        until(lambda: MADE in daemon.imgctl("list").stdout, seconds=60)
        # What was there was not fetched again.
        until(lambda: served.bytes_sent() > sent)
        assert served.bytes_sent() - sent < len(file)
        assert "Traceback" not in daemon.log.read_text()


def test_no_free_inodes(tmp_path, served):
    with few_inodes(tmp_path / "small", 300) as small_disk:
        daemon = Daemon(tmp_path / "store", config=static_source(served.url))
        text = daemon.config_file.read_text()
        daemon.config_file.write_text(text.replace(f"{daemon.folder}/state", f"{small_disk.folder}/state"))
        with daemon:
            daemon.imgctl("import", BASE, check=True)
            assert daemon.stop() == 0
            small_disk.leave(0)
            daemon.start()
            assert BASE in daemon.imgctl("list").stdout
            assert any("no free inodes" in each["message"] for each in problems(daemon))
            small_disk.leave(100)
            until(lambda: problems(daemon) == [], seconds=30)
            daemon.imgctl("import", ZVOL, check=True)
