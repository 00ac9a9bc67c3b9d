"""`status` and `top` of a real daemon: the stage that limits an import is the one that was made slow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"
CLOSED = "http://127.0.0.1:9"

pytestmark = pytest.mark.slow


class SlowDaemon(Daemon):
    """imgstored with a pool that takes its time."""

    program = "tests.support.slow_pool"

    def start(self, *, dies: str | None = None) -> None:
        assert dies is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + self.timeout
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def importing(daemon: Daemon, uuid: str) -> Iterator[None]:
    """An import is under way in the block, and is then ended."""
    running = subprocess.Popen(
        [sys.executable, "-m", "imgctl", "import", "-q", uuid],
        env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(30)


def limited(daemon: Daemon, stage: str) -> dict[str, object]:
    """The only import under way, once a look at it says that this stage limits it."""
    seen: list[object] = []
    command = [sys.executable, "-m", "imgctl", "top", "-j", "-d", "0.2", "-n", "200"]
    environment = {**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as top:
        try:
            for line in top.stdout:
                jobs = json.loads(line)["imports"]
                seen += [job["limits"] for job in jobs]
                # Of two looks one after the other: not by chance at the start.
                if jobs and seen[-2:] == [stage, stage]:
                    return jobs[0]
        finally:
            top.terminate()
    raise AssertionError(f"nothing was limited by {stage}: {seen}")


@pytest.fixture
def made(served):
    served.pages.add(*made_image(MADE, size=16 << 20))
    return served


def test_a_slow_network(made, gate, tmp_path):
    gate.hold(after=1 << 20)
    with gated(made, gate, tmp_path / "slow", MADE, connections=8) as daemon, importing(daemon, MADE):
        job = limited(daemon, "network")
        assert (job["uuid"], job["phase"], job["source"]) == (MADE, "downloading", made.url)
        assert 0 < job["connections"] <= 8
        shown = daemon.imgctl("status")
        assert shown.returncode == 0
        (row,) = [line.split() for line in shown.stdout.splitlines() if line.startswith(MADE)]
        assert row[:4] == [MADE, "made-1@1.0.0", "zones", "downloading"]
        assert row[-2:] == ["network", made.url]
        assert daemon.imgctl("top", "-n", "1").stdout.splitlines()[1].endswith("limited by network")


@pytest.mark.parametrize("verify", ["streaming", "first"])
def test_a_slow_pool(made, tmp_path, verify):
    with (
        SlowDaemon(tmp_path / "store", config=static_source(made.url, verify=verify)) as daemon,
        importing(daemon, MADE),
    ):
        job = limited(daemon, "pool")
        assert job["done"] == job["total"]
        assert daemon.imgctl("top", "-n", "1").stdout.splitlines()[1].endswith("limited by pool")


def test_a_live_screen_of_an_import(made, tmp_path):
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    with SlowDaemon(tmp_path / "store", config=static_source(made.url)) as daemon:
        environment["IMGSTORED_SOCKET"] = str(daemon.socket)
        with Terminal(
            [sys.executable, "-m", "imgctl", "top", "-d", "0.2"], environment, size=(24, 120)
        ) as terminal:
            terminal.wait_for("Nothing")
            with importing(daemon, MADE):
                terminal.wait_for("made-1@1.0.0")
                terminal.wait_for("pool")
            terminal.wait_for("Nothing")
            terminal.type("q")
            assert terminal.end() == 0
            assert terminal.restored


def test_what_an_operator_sees(served, tmp_path):
    config = static_source(served.url) + static_source(CLOSED)
    with Daemon(tmp_path / "store", config=config) as daemon:
        shown = daemon.imgctl("status")
        assert shown.returncode == 0
        assert f"Configuration: {daemon.config_file}; view: files ({daemon.images})" in shown.stdout
        daemon.imgctl("import", BASE, check=True)
        shown = daemon.imgctl("status")
        assert shown.returncode == 1
        assert "1 client, 1 image\n" in shown.stdout
        assert f"Needs attention:\n  source {CLOSED}" in shown.stdout
        assert "Nothing is being imported." in shown.stdout
        assert re.search(rf"Warned last.*\n.*a source failed: {CLOSED}", shown.stdout)
        daemon.imgctl("import", MADE)  # which no source has
        found = json.loads(daemon.imgctl("status", "-j").stdout)
        assert found["pid"] == daemon.pid
        assert [pool["state"] for pool in found["pools"]] == ["ok"]
        assert [bool(source["error"]) for source in found["sources"]] == [False, True]
        daemon.stop()
        shown = daemon.imgctl("status")
        assert shown.returncode == 1
        assert "imgstored is not running" in shown.stderr


def test_the_view_that_came_to_be_is_named(served, tmp_path):
    settings = {"config": static_source(served.url), "view": "auto"}
    with Daemon(tmp_path / "store", **settings) as daemon, daemon.client() as client:
        assert client.status()["view"] in ("fuse", "files")
