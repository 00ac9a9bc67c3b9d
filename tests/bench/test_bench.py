"""The whole bench with small inputs: it is to end with a full table, and leave nothing running."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    "gzip, 20 MB/s a connection",
    "gzip, 10 MB/s a connection",
    "gzip, unlimited",
    "gzip, unlimited, beside a busy process",
    "bzip2, unlimited",
    "xz of several blocks, unlimited",
    "zstd, unlimited",
    "gzip over TLS, unlimited",
    "from a registry, in layers of zstd, unlimited",
    "from a registry, one layer of gzip, unlimited",
    "from a registry, in layers of zstd, 20 MB/s a connection",
    "gzip: decompress",
    "zstd: verify, write",
    "daemon's peak memory (VmHWM), 0.024 GB stream",
    "daemon's peak memory (VmHWM), zstd --long=26",
    "kill -9 at half",
    "kill -9 at 90 %",
    "`imgctl list` (20 images)",
    "`imgctl list` (5 images)",
    "start with 20 images (view files)",
    "clients `ensure` one image",
    "serve a file, 8 connections",
    "10 daemons behind a server that downloads by 2 connections of 20 MB/s",
    "10 downloads by curl, 8 ranges each, behind a server",
    "the last of 2 hosts behind a cache behind a registry",
    "wake-up with 1 connection, by poll",
    "wake-up with 3,000 connections, by poll",
]


@pytest.mark.slow
@pytest.mark.timeout(1820)
def test_the_quick_bench_has_a_row_for_every_case_and_leaves_nothing_running(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--work", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert [case for case in CASES if not any(case in row[0] for row in rows)] == []
    # What does not depend on how fast this machine is.
    assert any("20 succeed, 1.00 downloads" in row[1] for row in rows)
    assert "Python 3" in done.stdout
    assert commands_with(str(tmp_path)) == []


def test_an_unknown_case_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "nonsense", "--work", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "gzip-paced" in done.stderr


def test_two_benches_do_not_share_a_folder(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--quick", "--work", str(tmp_path)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "another one runs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def commands_with(text: str) -> list[str]:
    """Command lines of running processes that have the text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if text in command:
            found.append(command)
    return found
