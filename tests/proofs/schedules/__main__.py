"""Deterministic schedules of the imports: `python -m tests.proofs.schedules [OPTIONS] N`.

The real manager, imports, transfers, catalog and journal run with a network in memory and a pool that fails.
Threads take turns with the event loop (`turns`): one number, the seed, decides who goes on, what fails, what
clients ask for, and when the daemon is killed or stopped. Ends with status 1 at the first broken promise, and
says its seed; `1 --seed SEED --trace` shows all that happened there.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

#: Seconds for one schedule, which takes a few hundredths.
_SECONDS = 600
#: What a set of names is sorted by must be the same in each run.
_HASHES = "PYTHONHASHSEED"


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.schedules", description=__doc__)
    parser.add_argument("schedules", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the first one; each other one has the next")
    parser.add_argument("--trace", action="store_true", help="what happened in each")
    parser.add_argument("--digests", action="store_true", help="a hash of what happened in each")
    parser.add_argument("--go-on", action="store_true", help="after a broken promise, too")
    parser.add_argument("--report", type=Path, default=None, help="a JSON file with the figures so far")
    arguments = parser.parse_args()
    from tests.proofs.schedules import turns

    clock = time.monotonic
    turns.install()
    from tests.proofs.schedules.schedule import Schedule

    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="imgstore-schedules-", dir=base))
    began, figures, broken = (
        clock(),
        dict.fromkeys(("schedules", "done", "failed", "kills", "stops", "events"), 0),
        [],
    )
    # What is collected runs what it has left to do: that must not depend on what the process did before.
    gc.disable()
    signal.signal(signal.SIGALRM, _hangs)
    for seed in range(arguments.seed, arguments.seed + arguments.schedules):
        schedule = Schedule(str(seed), folder / "now", keep=arguments.trace)
        now[0] = seed
        signal.alarm(_SECONDS)
        try:
            schedule.run()
        except Exception as error:  # noqa: BLE001  (whatever it is, it has a seed)
            broken.append(seed)
            print(f"broken: seed {seed}: {_said(error)}", flush=True)
            if arguments.trace:
                traceback.print_exc()
        for line in schedule.trace.lines or ():
            print(line)
        if arguments.digests:
            print(seed, schedule.trace.events, schedule.trace.digest, flush=True)
        shutil.rmtree(folder / "now", ignore_errors=True)
        figures["schedules"] += 1
        figures["done"] += schedule.done
        figures["failed"] += schedule.failed
        figures["kills"] += schedule.kills
        figures["stops"] += schedule.restarts
        figures["events"] += schedule.trace.events
        del schedule
        if figures["schedules"] % 50 == 0:
            gc.collect()
        if broken and not arguments.go_on:
            break
        if figures["schedules"] % 100 == 0:
            _report(figures, broken, clock() - began, arguments)
    _report(figures, broken, clock() - began, arguments)
    shutil.rmtree(folder)
    return int(bool(broken))


#: The seed of the schedule that runs.
now = [0]


def _hangs(number: int, frame: FrameType | None) -> None:
    """A schedule does not end: threads wait for each other, and nothing can cancel them."""
    print(f"broken: seed {now[0]}: it hangs, in\n{''.join(traceback.format_stack(frame))}", flush=True)
    os._exit(1)


def _said(error: BaseException) -> str:
    """The error, and what is in a group of them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_said(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _report(
    figures: dict[str, int], broken: list[int], seconds: float, arguments: argparse.Namespace
) -> None:
    text = ", ".join(f"{count} {name}" for name, count in figures.items())
    print(f"{text}, {len(broken)} broken, {seconds:.0f} s", flush=True)
    if arguments.report is not None:
        document = figures | {"seed": arguments.seed, "seconds": round(seconds), "broken": broken[:100]}
        arguments.report.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if os.environ.get(_HASHES) != "0":
        os.environ[_HASHES] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.proofs.schedules", *sys.argv[1:]])
    sys.exit(main())
