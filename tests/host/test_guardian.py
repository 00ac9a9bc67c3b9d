"""What the daemon runs ends with the daemon, however that ends; real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgstored.host.guardian import Guardian

#: A stand-in for the daemon, which runs a program that starts another one and stays. It says who they are.
_DAEMON = """
import subprocess, sys
from imgstored.host.guardian import Guardian
with Guardian() as guardian:
    process = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 600 & echo $!; wait"],
        stdout=subprocess.PIPE,
        process_group=guardian.group,
        text=True,
    )
    print(guardian.group, process.pid, process.stdout.readline().strip(), flush=True)
    sys.stdin.readline()
    print("over", flush=True)
sys.stdin.readline()
"""


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only waits to be looked after by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def daemon():
    process = subprocess.Popen(
        [sys.executable, "-c", _DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = []
    try:
        started = [int(word) for word in process.stdout.readline().split()]
        yield process, started
    finally:
        process.kill()
        process.communicate()
        for pid in started:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["alone", "with all of its group"])
def test_what_a_killed_daemon_has_run_is_gone(daemon, kill):
    process, started = daemon
    assert len(started) == 3
    assert all(map(is_alive, started))
    kill(process.pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, started)))


def test_what_was_left_behind_before_stays(daemon):
    """The daemon waits no more: what the program has started is its own affair."""
    process, (guardian, program, child) = daemon
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "over\n"
    until(lambda: not is_alive(guardian))
    process.kill()
    process.wait()
    assert is_alive(program)
    assert is_alive(child)


def test_a_daemon_that_dies_while_it_starts_a_program_leaves_none(tmp_path):
    """At the worst moment, the program is forked, and not yet in the group that ends."""
    guardian = Guardian()
    fork = f"""
import os, time
while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
os.setpgid(0, {guardian.group})
"""
    forked = subprocess.Popen([sys.executable, "-c", fork], stderr=subprocess.PIPE)
    guardian._process.stdin.close()  # as the kernel does for a daemon that dies
    assert guardian._process.wait() == -signal.SIGKILL
    (tmp_path / "go").touch()
    assert b"PermissionError" in forked.communicate()[1]


def test_one_that_has_nobody_to_end():
    with Guardian() as guardian:
        pass
    assert guardian._process.returncode is not None


def test_one_that_somebody_has_killed_is_no_reason_to_fail():
    with Guardian() as guardian:
        guardian._process.kill()
        guardian._process.wait()
