"""Runs both sides in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from bench.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def in_turn(case: str, runs: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of each side, by its name: A B C, A B C, and so on. A side times itself."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(1, runs + 1):
        for name, side in sides.items():
            taken[name].append(side())
        last = ", ".join(f"{name} {values[-1]:.3g} s" for name, values in taken.items())
        say(f"{case} {run}/{runs}: {last}")
    return taken


def settle() -> None:
    """Lets the disk finish what the last run left to it."""
    os.sync()


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
