"""The server with a line of its own to each client."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing

import pytest

from bench.servers import PacedNginx

RATE = 4_000_000
RANGE = 500_000


def fetch(port: int, ranges: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for index in range(ranges):
            wanted = f"bytes={index * RANGE}-{(index + 1) * RANGE - 1}"
            connection.request("GET", "/file", headers={"Range": wanted})
            assert len(connection.getresponse().read()) == RANGE


def seconds_of(port: int, connections: int, ranges: int) -> float:
    threads = [threading.Thread(target=fetch, args=(port, ranges)) for _ in range(connections)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


@pytest.mark.alone
def test_each_connection_is_paced_over_all_of_its_requests(tmp_path, site):
    (site / "file").write_bytes(bytes(4 * RANGE))
    with PacedNginx(tmp_path / "nginx", root=site, rate=RATE) as server:
        assert 0.35 < seconds_of(server.port, 1, 4) < 0.9
        # Three lines side by side carry three times as much.
        assert 0.35 < seconds_of(server.port, 3, 4) < 0.9
        assert len({hit.connection for hit in server.settled_hits() if hit.path == "/file"}) == 4
