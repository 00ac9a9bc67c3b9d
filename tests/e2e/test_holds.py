"""What keeps an image from being deleted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.test_on_demand import until
from tests.support.image_site import BASE

HOLDER = """
import sys
from imgctl import Client
with Client(sys.argv[1]).holding(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


def test_a_hold_is_named_survives_a_restart_and_is_released(daemon):
    daemon.imgctl("import", BASE, check=True)
    assert daemon.imgctl("hold", BASE, "web").stdout == f"Held image {BASE} (web)\n"
    daemon.kill()
    daemon.start()
    refused = daemon.imgctl("delete", BASE)
    assert refused.returncode == 1
    assert f'error (ImageHeld): image "{BASE}" is held: web' in refused.stderr
    assert daemon.imgctl("holds", BASE).stdout == "web\n"
    assert daemon.imgctl("list", "-H", "-o", "pinned,held", "held=~web").stdout == 'false   ["web"]\n'
    assert json.loads(daemon.imgctl("holds", "-j", BASE).stdout) == ["web"]
    assert daemon.imgctl("release", BASE, "web").stdout == f"Released image {BASE} (web)\n"
    assert daemon.imgctl("delete", BASE).returncode == 0
    assert daemon.imgctl("hold", BASE, "web").returncode == 3


def test_the_hold_of_a_client_ends_when_it_is_killed(daemon):
    daemon.imgctl("import", BASE, check=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(daemon.socket), BASE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "error (ImageHeld)" in daemon.imgctl("delete", BASE).stderr
        holder.kill()
    until(lambda: daemon.imgctl("holds", BASE).stdout == "")
    assert daemon.imgctl("delete", BASE).returncode == 0
