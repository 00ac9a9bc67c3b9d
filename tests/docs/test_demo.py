"""What the README begins with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.docs.pages import DEMO_SERVER, ROOT
from tests.support.nginx import free_port


@pytest.mark.slow
def test_the_demo():
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is left running or mounted\n")


def test_the_server_of_the_first_session():
    """It stays, and serves what the page shows, until it is interrupted."""
    port = free_port()
    command = [sys.executable, "-m", "tests.demo", "--serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert (
            process.stdout.readline()
            == f"three images at http://127.0.0.1:{port} (type static), until Ctrl-C\n"
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            names = [manifest["name"] for manifest in json.load(answer)]
        assert names == ["base", "incremental", "zvol"]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "stopped\n"
    finally:
        process.kill()
        process.wait(60)
    makefile = (ROOT / "Makefile").read_text()
    assert "\t$(BIN)/python -m tests.demo --serve\n" in makefile
    assert f":{DEMO_SERVER.rpartition(':')[2]}" in (ROOT / "Makefile").read_text()
