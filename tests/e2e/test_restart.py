"""kill -9 at any moment, SIGTERM, SIGHUP, and a second daemon."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.nginx import Nginx

MADE = "44444444-aaaa-4bbb-8ccc-000000000002"
MIB = 1 << 20


def whole_or_nothing(daemon: Daemon) -> set[str]:
    """Checks that list, get and the view agree, and returns what is installed."""
    for _ in range(50):
        with daemon.client() as client:
            listed = {image["manifest"]["uuid"]: image for image in client.list()}
        shown = {path.name for path in daemon.images.iterdir() if len(path.name) == 36}
        if shown == set(listed):
            break
        time.sleep(0.1)  # between telling clients and showing files is a moment
    else:
        raise AssertionError(f"listed: {set(listed)}, shown: {shown}")
    for uuid, image in listed.items():
        assert image["manifest"]["name"]
        assert (daemon.images / uuid / "manifest.json").read_text().startswith("{")
    return set(listed)


def unfinished(daemon: Daemon) -> int:
    """Imports that the journal has: right after a start there may be no job of them yet."""
    with closing(sqlite3.connect(daemon.folder / "state" / "journal.sqlite")) as db:
        return int(db.execute("SELECT count(*) FROM imports WHERE wanted").fetchone()[0])


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_all_or_nothing_and_the_import_ends(daemon, served):
    dice = random.Random(20261124)
    served.pages.add(*made_image(MADE, size=24 * MIB))
    for round_ in range(3):
        clients = [started(daemon, "import", uuid) for uuid in (INCREMENTAL, ZVOL, MADE)]
        time.sleep(dice.uniform(0.15, 0.9))
        daemon.kill()
        for client in clients:
            client.communicate(timeout=30)
        daemon.start()
        whole_or_nothing(daemon)
        # What was begun goes on by itself.
        until(lambda: unfinished(daemon) == 0 and jobs(daemon) == [], seconds=60)
        for uuid in whole_or_nothing(daemon) - {BASE}:
            daemon.imgctl("delete", uuid, check=True)
        if BASE in whole_or_nothing(daemon):
            daemon.imgctl("delete", BASE, check=True)
        assert whole_or_nothing(daemon) == set(), f"round {round_}"


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_after_kill_9_at_most_one_range_a_connection_is_fetched_again(served, gate, tmp_path, part):
    manifest, file = made_image(MADE, size=16 * MIB)
    served.pages.add(manifest, file)
    gate.hold(after=int(part * len(file)) + 1)
    with gated(served, gate, tmp_path / "slow", MADE, connections=4) as daemon:
        client = started(daemon, "import", MADE)
        until(lambda: any(job["done"] >= part * len(file) for job in jobs(daemon)), seconds=30)
        daemon.kill()
        client.communicate(timeout=30)
        sent_before = gate.given
        gate.open()
        daemon.start()
        until(lambda: MADE in whole_or_nothing(daemon), seconds=60)
        # What the killed daemon had in flight was sent, and is not there: one range of 1 MiB a connection.
        assert gate.given - sent_before <= (1 - part) * len(file) + 4 * MIB


def test_sigterm_ends_in_time_and_keeps_what_is_there(served, gate, tmp_path):
    manifest, file = made_image(MADE, size=16 * MIB)
    served.pages.add(manifest, file)
    gate.hold(after=9 * MIB)
    with gated(served, gate, tmp_path / "slow", MADE, connections=4) as daemon:
        client = started(daemon, "import", MADE)
        until(lambda: any(job["done"] > 8 * MIB for job in jobs(daemon)))
        begun = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - begun < 10
        _, errors = client.communicate(timeout=30)
        assert client.returncode == 1
        assert "stopping" in errors
        daemon.start()
        # Still held: what it has is what was there.
        until(lambda: any(4 * MIB < job["done"] < len(file) for job in jobs(daemon)))
        gate.open()
        until(lambda: MADE in whole_or_nothing(daemon), seconds=30)


def test_sighup_reads_the_sources_again(daemon, served, tmp_path):
    assert daemon.imgctl("sources").stdout == f"{served.url}\n"
    with Nginx(tmp_path / "other", root=served.pages.folder) as other:
        text = daemon.config_file.read_text()
        daemon.config_file.write_text(text + static_source(other.url))
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: daemon.imgctl("sources").stdout == f"{served.url}\n{other.url}\n")
        daemon.config_file.write_text(text + "nonsense = 1\n")
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: "nonsense" in daemon.log.read_text())
        assert daemon.imgctl("sources").stdout == f"{served.url}\n{other.url}\n"


def test_a_second_daemon_on_the_same_state_is_refused(daemon):
    second = subprocess.run(
        [sys.executable, "-m", "imgstored", "--config", str(daemon.config_file)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    # To try again may help: the other one may end.
    assert second.returncode == 1
    assert "another imgstored" in second.stderr
    assert daemon.imgctl("list").returncode == 0


def test_a_killed_daemons_socket_and_mount_are_taken_over(served, tmp_path):
    with Daemon(tmp_path / "fuse", view="fuse", config=static_source(served.url)) as daemon:
        daemon.imgctl("import", BASE, check=True)
        assert (daemon.images / BASE / "manifest.json").read_text().startswith("{")
        daemon.kill()
        with pytest.raises(OSError, match="not connected"):
            list(daemon.images.iterdir())
        daemon.start()
        assert (daemon.images / BASE / "manifest.json").read_text().startswith("{")
        assert daemon.stop() == 0
        assert str(daemon.images) not in Path("/proc/mounts").read_text()
        assert not daemon.socket.exists()
