"""A daemon without the threads that trio shares out: each kind of blocking work has its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import until
from tests.support.daemon import CHAIN_TOP, ZVOL, Daemon
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, INCREMENTAL, fixture_file
from tests.support.nginx import free_port

MADE = "22222222-aaaa-4bbb-8ccc-000000000091"


class LanedDaemon(Daemon):
    """Trio's own threads are none, and whoever asks for one fails."""

    program = "tests.support.laned_daemon"


def said(daemon):
    return daemon.log.read_text()


@pytest.mark.parametrize("view", ["files", "fuse", "off"])
def test_all_works_without_trios_own_threads(tmp_path, served, view):
    if view == "fuse" and not Path("/dev/fuse").exists():
        view = "files"
    made, file = made_image(MADE, size=1 << 20)
    (tmp_path / "made.json").write_text(json.dumps(made))
    (tmp_path / "made").write_bytes(file)
    port = free_port()
    config = (
        static_source(served.url)
        + '[serve]\npull = true\ntokens = { ops = "a-token-of-the-tests-0123456789" }\n'
        + f'listen = "127.0.0.1:{port}"\n[library]\nkeep_mib = 100\n'
        + f'[[mirror]]\nurl = "{served.url}"\nname = "none-has-this"\nevery = "1s"\n'
    )
    with LanedDaemon(tmp_path / "store", config=config, view=view) as daemon:

        def run(*words):
            done = daemon.imgctl(*words, timeout=PATIENCE)
            assert done.returncode == 0, (words, done.stderr, said(daemon))
            return done.stdout

        run("import", CHAIN_TOP)
        run("import", ZVOL)
        run("install", "-m", str(tmp_path / "made.json"), "-f", str(tmp_path / "made"))
        run("alias", "mine", ZVOL)
        run("verify")
        run("update")
        with daemon.client() as client:
            assert client.call("doctor")
        run("export", "-o", str(tmp_path), ZVOL)
        run("mirror", "--name", "base", served.url)
        (tmp_path / "www").mkdir()
        run("export-site", str(tmp_path / "www"))
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: "read the configuration again" in said(daemon))
        run("delete", MADE)
        run("vacuum", "-f")
        with Daemon(tmp_path / "host", config=f'[[sources]]\nurl = "http://127.0.0.1:{port}"\n') as host:
            assert host.imgctl("import", INCREMENTAL).returncode == 0
        assert fixture_file(BASE).stat().st_size == served.bytes_sent_of(BASE)
        until(lambda: "mirrored a server" in said(daemon))
    with LanedDaemon(tmp_path / "store", config=config, view=view) as daemon:
        run("list")
    assert "has no limiter" not in said(daemon)
    assert "by a mistake" not in said(daemon)
