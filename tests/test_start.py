"""How much the daemon has to do until it answers, with many images; `python -m bench` has the seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.many_images import stock

IMAGES = 1000


def processor_seconds(pid: int) -> float:
    """What a process has used so far, in all of its threads (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("view", ["off", "files", "fuse"])
def test_a_start_with_a_thousand_images_is_short(tmp_path, view):
    stock(tmp_path / "store" / "state", IMAGES)
    daemon = Daemon(tmp_path / "store", view=view, timeout=60)
    used = []
    for _ in range(4):  # the first compiles, and writes the files of the view
        with daemon:
            used.append(processor_seconds(daemon.pid))
            with daemon.client() as client:
                assert len(client.list()) == IMAGES
            assert len(list(daemon.images.glob("????????-*"))) == (0 if view == "off" else IMAGES)
    # 0.2 to 0.3 s on a quiet machine. Not the time that passed: what else the machine does is not counted.
    assert min(used[1:]) < 1.0
