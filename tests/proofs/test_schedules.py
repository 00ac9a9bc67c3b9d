"""Deterministic schedules: the short form of `make schedules`, and whether they find what they should.

They run in processes of their own: all threads and locks are other ones there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

#: Runs some schedules of a daemon that has a fault; ends with what the first one found.
_WITH_A_FAULT = """
import sys
from pathlib import Path
from tests.proofs.schedules import turns
turns.install()
{fault}
from tests.proofs.schedules.schedule import Schedule
for seed in range(60):
    Schedule(str(seed), Path(sys.argv[1]) / str(seed)).run()
"""

#: The event loop waits for a lock, while the thread that has it waits for something else.
_STUCK = """
import threading, trio, trio.testing
from tests.proofs.schedules import turns
turns.install()
turns.TURNS.seed("1")
lock = threading.Lock()

def hold():
    with lock:
        turns.pause(1.0)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, hold)
        await trio.sleep(0.5)
        with lock:
            pass

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environ)


def schedules(*arguments: str) -> list[str]:
    run = python("-m", "tests.proofs.schedules", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_some_schedules():
    [*_, last] = schedules("60", "--seed", "20261129")
    assert last.startswith("60 schedules, ")
    assert ", 0 broken, " in last


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_seed_is_one_schedule_whatever_came_before():
    """All that happens is the same, with its times, in another process and after other schedules."""
    first, again = (schedules("12", "--seed", "1", "--digests")[:12] for _ in range(2))
    assert first == again
    assert schedules("1", "--seed", "12", "--digests")[0] == first[11]
    assert len({line.split()[-1] for line in first}) == 12


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (
            "from imgstored.imports.leftovers import Leftovers\nLeftovers.drop = lambda *_, **__: None",
            "something is left: .*wanted",
        ),
        (
            "from imgstored.imports.free_space import Claim\nClaim.close = lambda self: None",
            "something is left: .*claims",
        ),
    ],
    ids=["nothing is dropped", "room is not given back"],
)
def test_a_daemon_with_a_fault_is_found_out(fault, found, tmp_path):
    run = python("-c", _WITH_A_FAULT.format(fault=fault), str(tmp_path))
    assert run.returncode == 1
    assert re.search(found, run.stderr), run.stderr


def test_an_event_loop_that_waits_for_a_waiting_thread_is_found_out():
    run = python("-c", _STUCK)
    assert run.returncode == 1
    assert "StuckError: a lock that a waiting thread has is waited for" in run.stderr
