"""Runs both sides in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The machine counts as quiet when this part of the processors' time is idle, over so many seconds.
_IDLE = 0.9
_POLL_INTERVAL = 0.5


def in_turn(
    case: str, runs: int, sides: Mapping[str, Callable[[], float]], *, timeout: float
) -> dict[str, list[float]]:
    """Seconds of each side, by its name: A B C, A B C, and so on. A side times itself.

    Before each the machine is to be quiet; `timeout` bounds the seconds that this is waited for.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(1, runs + 1):
        for name, side in sides.items():
            _wait_for_quiet(timeout)
            taken[name].append(side())
        last = ", ".join(f"{name} {values[-1]:.3g} s" for name, values in taken.items())
        say(f"{case} {run}/{runs}: {last}")
    return taken


def _wait_for_quiet(timeout: float) -> None:
    """Lets the disk finish what the last run left to it, and others what they do.

    A run that shares the processors with something else says little: ours uses all of them, most peers one.
    """
    os.sync()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and _idle_share() < _IDLE:
        pass


def _idle_share() -> float:
    """The part of all processors' time that nobody used, over half a second."""
    first = _ticks()
    time.sleep(_POLL_INTERVAL)
    idle, total = (after - before for after, before in zip(_ticks(), first, strict=True))
    return idle / max(1, total)


def idle_seconds() -> float:
    """Seconds that all processors together had nothing to do, since the machine's start."""
    return _ticks()[0] / os.sysconf("SC_CLK_TCK")


def _ticks() -> tuple[int, int]:
    """Idle and all ticks since the start, from the first line of /proc/stat (proc(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def timed(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """Seconds from start to exit of a command. Raises `RuntimeError` with what it said if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
    )
    taken = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return taken
