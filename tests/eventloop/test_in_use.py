"""What is waited by in this run of the tests: in `make unit-poll` it is the stand-in, everywhere."""

from __future__ import annotations

import json
import select
import subprocess
import sys

import trio

from imgstored.eventloop import kqueue_by_poll
from tests.support.daemon import Daemon
from tests.support.waits_by import WAITS_BY, has_epoll

BY_POLL = WAITS_BY == "poll"


async def test_in_the_tests():
    assert trio.lowlevel.current_statistics().io_statistics.backend == ("kqueue" if BY_POLL else "epoll")
    assert kqueue_by_poll.is_installed() == BY_POLL
    assert hasattr(select, "epoll") != BY_POLL
    if BY_POLL:
        assert isinstance(trio.lowlevel.current_kqueue(), kqueue_by_poll.Kqueue)


def test_in_their_children():
    program = "import trio; print(hasattr(trio.lowlevel, 'current_kqueue')); import sys; print(sys.platform)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [str(BY_POLL), "linux"]


def test_in_the_daemon(tmp_path):
    with Daemon(tmp_path / "store") as daemon:
        found = json.loads(daemon.imgctl("doctor", "-j").stdout)["findings"]
        (python,) = [finding for finding in found if finding["check"] == "python"]
        assert (python["status"], python["seen"].rpartition("; ")[2]) == ("ok", f"trio waits by {WAITS_BY}")
        assert has_epoll(daemon.pid) != BY_POLL
