"""The time in which trio wakes the task of one connection while many others wait: poll against epoll.

`python -m bench.wakeup CONNECTIONS WAKES` is one side: it prints the median in seconds.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
import trio.testing

from bench.table import compared
from bench.timing import in_turn
from imgstored.host.descriptors import raise_limit

if TYPE_CHECKING:
    from bench.context import Bench
    from bench.table import Row

_ROOT = Path(__file__).parents[1]
#: With this in PYTHONPATH, Python is as on illumos.
_ILLUMOS = _ROOT / "tests" / "support" / "illumos"
_CONNECTIONS = (1, 256, 1000, 3000)


def wakeup(bench: Bench) -> list[Row]:
    """From the byte that is sent to the task that waited for it; each side in a process of its own."""
    rows = []
    for count in _CONNECTIONS:
        sides = {
            "poll": partial(_median, count, bench.scale.wakes, {"PYTHONPATH": str(_ILLUMOS)}),
            "epoll": partial(_median, count, bench.scale.wakes, {}),
        }
        case = f"wake-up with {count:,} connection{'s' if count > 1 else ''}"
        taken = in_turn(case, bench.runs, sides, timeout=bench.scale.quiet_seconds)
        rows.append(compared(f"{case}, by poll", taken["poll"], "by epoll", taken["epoll"], at_most=None))
    return rows


def _median(connections: int, wakes: int, environment: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.wakeup", str(connections), str(wakes)],
        cwd=_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


async def _wake(connections: int, wakes: int) -> list[float]:
    """Seconds of each wake-up, one connection after the other."""
    taken: list[float] = []
    woken = trio.Event()
    sent = 0.0

    async def waits(ours: socket.socket) -> None:
        nonlocal woken
        while True:
            await trio.lowlevel.wait_readable(ours)
            taken.append(time.perf_counter() - sent)
            ours.recv(1)
            woken.set()

    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(connections)]
        async with trio.open_nursery() as nursery:
            for ours, _ in pairs:
                nursery.start_soon(waits, ours)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(wakes):
                woken = trio.Event()
                sent = time.perf_counter()
                pairs[number % connections][1].send(b"x")
                await woken.wait()
            nursery.cancel_scope.cancel()
    return taken


def _main(connections: int, wakes: int) -> None:
    raise_limit(2 * connections + 64)
    print(statistics.median(trio.run(_wake, connections, wakes)))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
