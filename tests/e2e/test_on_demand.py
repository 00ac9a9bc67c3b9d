"""Many who want the same image, and some who stop wanting it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE
from tests.support.nginx import Nginx

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def slow(served, tmp_path):
    """A daemon whose source takes half a second for a range of 1 MiB, and one made image of 16 MiB.

    nginx sends the first second of a rate at once: 700 of 1,024 KiB.
    """
    served.pages.add(*made_image(MADE, size=16 << 20))
    with (
        Nginx(tmp_path / "slow-nginx", root=served.pages.folder, limit_rate="700k") as nginx,
        Daemon(
            tmp_path / "slow-store", config=static_source(nginx.url) + "[limits]\nconnections = 2\n"
        ) as daemon,
    ):
        served.nginx = nginx
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


def test_ctrl_c_ends_one_interest_and_the_last_one_ends_the_import(slow):
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


def test_partial_data_of_a_cancelled_import_serves_the_next(slow, served):
    import_ = started(slow, "import", MADE)
    until(lambda: any(job["done"] > 6 << 20 for job in jobs(slow)))
    assert slow.imgctl("cancel", MADE).returncode == 0
    _, errors = import_.communicate(timeout=30)
    assert import_.returncode == 1
    assert "error (Cancelled)" in errors

    again = slow.imgctl("import", MADE)
    assert again.returncode == 0
    served.nginx.settled_hits()
    size = served.pages.folder.joinpath(MADE, "file").stat().st_size
    # Two connections had one range of 1 MiB each under way when it was cancelled.
    assert served.bytes_sent() <= size + 2 * (1 << 20) + 300_000


def test_watch_shows_what_others_import(slow):
    watch = started(slow, "watch", "--json")
    time.sleep(0.3)
    slow.imgctl("import", MADE, check=True)
    watch.send_signal(signal.SIGINT)
    seen, _ = watch.communicate(timeout=30)
    assert '"downloading"' in seen
    assert f'"uuid": "{MADE}"' in seen or f'"uuid":"{MADE}"' in seen
