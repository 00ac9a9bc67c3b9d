"""The image server under load, by wrk: nothing fails, memory stays, and the host's own work goes on."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_fairness import open_files, resident
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, ZVOL
from tests.support.nginx import free_port

LARGE = "22222222-aaaa-4bbb-8ccc-0000000000a1"
CONNECTIONS, SECONDS = 200, 3

#: Asks for 64 KiB at a random place, in place of the whole file.
_RANGES = """
request = function()
    local start = math.random(0, {size} - 65536)
    return wrk.format("GET", nil, {{["Range"] = "bytes=" .. start .. "-" .. (start + 65535)}})
end
"""


@pytest.fixture
def loaded(tmp_path, served):
    """A server with a large image, which takes all connections from one address: its URL, and the daemon."""
    port = free_port()
    served.pages.add(*made_image(LARGE, size=16 << 20))
    config = f'[library]\nkeep_mib = 100\n[serve]\nlisten = "127.0.0.1:{port}"\nclient_connections = 512\n'
    with Daemon(tmp_path / "server", config=static_source(served.url) + config) as daemon:
        for uuid in (LARGE, BASE):
            daemon.imgctl("import", uuid, check=True)
        yield f"http://127.0.0.1:{port}", daemon


@contextmanager
def wrk(url, *words):
    """Runs it for some seconds; its report is complete when the block has ended."""
    command = ["wrk", "-t", "2", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s", "--timeout", "30s", *words, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        report = {"text": ""}
        yield report
        report["text"] = running.communicate(timeout=PATIENCE)[0]
        assert running.returncode == 0, report["text"]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "ranges"),
    [("/ping", False), ("/images", False), (f"/images/{BASE}", False), (f"/images/{LARGE}/file", True)],
    ids=["ping", "list", "manifest", "ranges"],
)
def test_a_load_breaks_nothing(tmp_path, loaded, record_property, path, ranges):
    url, daemon = loaded
    script = tmp_path / "ranges.lua"
    script.write_text(_RANGES.format(size=1 << 24))
    files, before = open_files(daemon.pid), resident(daemon.pid)
    with wrk(url + path, *(["-s", str(script)] if ranges else [])) as report:
        # What the daemon is there for goes on.
        daemon.imgctl("import", ZVOL, check=True)
        daemon.imgctl("delete", ZVOL, check=True)
    text = report["text"]
    record_property("wrk", text)
    requests = re.search(r"(\d+) requests in", text)
    assert requests is not None
    assert int(requests[1]) > CONNECTIONS, text
    assert "Socket errors" not in text, text
    assert "Non-2xx" not in text, text
    # A thread for each connection that has a request, and no more than that.
    assert resident(daemon.pid) - before < 64, text
    until(lambda: open_files(daemon.pid) <= files + 4)
    log = daemon.log.read_text()
    assert "by a mistake" not in log
    with daemon.client() as client:
        server = client.status()["server"]
    # wrk leaves in the middle of the last answers.
    assert server["requests"] >= int(requests[1])
    assert server["refused"] == 0
