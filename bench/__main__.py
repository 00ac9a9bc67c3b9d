"""`python -m bench`: measures the cases one after another, and prints one table in Markdown."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench import (
    calibration,
    clients,
    listing,
    memory,
    registry,
    restart,
    serving,
    speed,
    stages,
    start,
    wakeup,
)
from bench.context import FULL, QUICK, Bench
from bench.machine import described
from bench.progress import say
from bench.table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.table import Row

_CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "gzip-paced": speed.paced,
    "gzip-slow": speed.slow,
    "gzip": speed.gzip,
    "gzip-busy": speed.gzip_busy,
    "bzip2": speed.bzip2,
    "xz": speed.xz,
    "zstd": speed.zstd,
    "tls": speed.tls,
    "registry": registry.registry,
    "registry-paced": registry.paced,
    "stages": stages.stages,
    "memory": memory.memory,
    "restart": restart.restart,
    "list": listing.listing,
    "start": start.start,
    "clients": clients.clients,
    "wakeup": wakeup.wakeup,
    "serve": serving.serving,
    "rack": serving.rack,
    "calibration": calibration.calibration,
    "ranges": serving.ranges,
    "crowd": serving.crowd,
    "lists": serving.lists,
}


def main() -> None:
    """Prints the table. Ends with status 0 also when a goal was missed: the table says so."""
    arguments = _parsed()
    # Whoever ends this also ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    load = os.getloadavg()[0]
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = arguments.runs or (1 if arguments.quick else 5)
    rows: list[Row] = []
    with _alone(arguments.work):
        bench = Bench(arguments.work.resolve(), runs=runs, scale=QUICK if arguments.quick else FULL)
        for name in arguments.only or _CASES:
            say(f"case {name}")
            rows += _CASES[name](bench)
    print(markdown(rows))
    quick = " Quick: the figures mean little." if arguments.quick else ""
    print(f"\nRuns of each side: {runs}, in turn.{quick}\n")
    print(described(arguments.work, load))


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two benches would serve, and measure, each other's images."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"bench: another one runs in {work}; wait for it, or give this one another --work")
        yield


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures imgstore.")
    parser.add_argument("--runs", type=_positive, help="runs of each side (default: 5; with --quick 1)")
    parser.add_argument("--only", action="append", choices=_CASES, metavar="CASE", help=", ".join(_CASES))
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that everything works")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/bench"),
        help="folder for inputs, which are kept, and for what the cases write (default: %(default)s)",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main()
