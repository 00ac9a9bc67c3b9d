"""Many who want the same image, and some who stop wanting it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import gated, made_image
from tests.support.image_site import BASE

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def slow(served, gate, tmp_path):
    """A daemon whose source holds back the one made image of 16 MiB, as the gate says."""
    served.pages.add(*made_image(MADE, size=16 << 20))
    with gated(served, gate, tmp_path / "slow", MADE) as daemon:
        yield daemon


def started(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imgctl", *arguments],
        env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, *, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value


def jobs(daemon: Daemon):
    with daemon.client() as client:
        return client.jobs()


def test_fifty_clients_share_one_download(daemon, served):
    outcomes: list[object] = []

    def ensure() -> None:
        events: list[str] = []
        with daemon.client() as client:
            client.ensure([BASE], on_event=lambda event: events.append(event["event"]))
        outcomes.append("installed" in events or "already-installed" in events)

    threads = [threading.Thread(target=ensure) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes == [True] * 50
    size = served.bytes_sent()
    assert size < 1.1 * 1_851_100


def test_ensure_returns_at_once_when_all_is_there(daemon, served):
    daemon.imgctl("import", BASE, check=True)
    served.nginx.stop()
    assert daemon.imgctl("ensure", BASE).returncode == 0


def test_ctrl_c_ends_one_interest_and_the_last_one_ends_the_import(slow, gate):
    gate.hold(after=2 << 20)
    first, second = started(slow, "import", MADE), started(slow, "ensure", MADE)
    until(lambda: any(len(job["clients"]) == 2 and job["done"] > 0 for job in jobs(slow)))

    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    until(lambda: [len(job["clients"]) for job in jobs(slow)] == [1])
    assert second.poll() is None

    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)
    until(lambda: jobs(slow) == [])
    assert slow.imgctl("list").stdout == ""


def test_partial_data_of_a_cancelled_import_serves_the_next(slow, served, gate):
    gate.hold(after=8 << 20)
    import_ = started(slow, "import", MADE)
    until(lambda: any(job["done"] > 6 << 20 for job in jobs(slow)))
    assert slow.imgctl("cancel", MADE).returncode == 0
    _, errors = import_.communicate(timeout=30)
    assert import_.returncode == 1
    assert "error (Cancelled)" in errors

    gate.open()
    again = slow.imgctl("import", MADE)
    assert again.returncode == 0
    served.nginx.settled_hits()
    size = served.pages.folder.joinpath(MADE, "file").stat().st_size
    # Two connections had one range of 1 MiB each under way when it was cancelled.
    assert served.bytes_sent() <= size + 2 * (1 << 20) + 300_000


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it prints, up to the line with the word."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"it ended without {word}: {seen}")


def test_watch_shows_what_others_import(slow, gate):
    gate.hold(after=2 << 20)
    importing = started(slow, "import", MADE)
    until(lambda: any(job["done"] > 0 for job in jobs(slow)))
    watch = started(slow, "watch", "--json")
    seen = read_until(watch, '"downloading"')
    gate.open()
    importing.communicate(timeout=60)
    assert importing.returncode == 0
    seen += read_until(watch, '"installed"')
    watch.send_signal(signal.SIGINT)
    watch.communicate(timeout=30)
    assert f'"uuid": "{MADE}"' in seen or f'"uuid":"{MADE}"' in seen
