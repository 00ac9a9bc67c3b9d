"""Fuzzes by coverage, with atheris: `python -m tests.fuzz [OPTIONS] TARGET…`; without a target, all in turn.

Each runs in a process of its own, so that a crash of an extension is seen, too. An input at which a target
fails is in the folder `found`; a file in tests/fuzz/found/TARGET/ is run by the tests from then on.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

#: What libFuzzer says when it does not see which lines an input reaches.
_BLIND: Final = "Is the code instrumented for coverage?"


def main() -> int:
    """Returns 1 if a target failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="those in tests/fuzz/targets.py")
    parser.add_argument("--runs", type=int, default=0, help="inputs of each target; 0: no bound")
    parser.add_argument("--seconds", type=int, default=60, help="of each target; 0: no bound")
    parser.add_argument(
        "--corpus", type=Path, default=None, help="a folder that keeps what reached something"
    )
    parser.add_argument(
        "--report", type=Path, default=None, help="a JSON file to which the figures are added"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.one:
        # Nothing of ours may be imported yet: only what atheris sees imported tells it where it goes.
        _fuzz(arguments.targets[0], rest)
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="imgstore-fuzz-") as folder:
        corpus = arguments.corpus or Path(folder)
        results = [
            _run(name, corpus / name, arguments.runs, arguments.seconds)
            for name in arguments.targets or TARGETS
        ]
    if arguments.report is not None:
        _add(arguments.report, results)
    return int(any(result["failed"] for result in results))


def _run(name: str, corpus: Path, runs: int, seconds: int) -> dict[str, Any]:
    corpus.mkdir(parents=True, exist_ok=True)
    found = Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-artifact_prefix={found}/", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"]
    options += [f"-max_total_time={seconds}"] if seconds else []
    options += [f"-runs={runs}"] if runs else []
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, *options, str(corpus)]
    # A run may last for hours: the file shows how far it is.
    log = found.with_suffix(".log")
    with log.open("wb") as file:
        done = subprocess.run(command, stderr=file, stdout=subprocess.DEVNULL)
    said = log.read_text(errors="replace")
    blind = _BLIND in said
    counts = re.findall(r"stat::number_of_executed_units: +(\d+)", said)
    counts = counts or re.findall(r"^#(\d+)\t", said, re.MULTILINE)
    inputs = int(counts[-1]) if counts else 0
    took = round(time.monotonic() - began)
    print(f"{name}: {inputs} inputs in {took} s, status {done.returncode}", flush=True)
    failed = done.returncode != 0 or blind
    if failed:
        print(said[-4000:])
    return {"target": name, "inputs": inputs, "seconds": took, "failed": failed}


def _add(report: Path, results: list[dict[str, Any]]) -> None:
    """Adds figures to those of earlier runs."""
    known: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    for result in results:
        before = known.setdefault(result["target"], {"inputs": 0, "seconds": 0, "failed": 0})
        for key in ("inputs", "seconds", "failed"):
            before[key] += result[key]
    report.write_text(json.dumps(known, indent=1) + "\n")


def _fuzz(name: str, options: list[str]) -> None:
    """In a process of its own; never returns."""
    import atheris

    with atheris.instrument_imports(include=["imgstored", "imgproto"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = Path(options[-1])
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    # What is there now stays: the garbage collector need not look at it again.
    gc.collect()
    gc.freeze()
    atheris.Setup([sys.argv[0], f"-max_len={target.size}", *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
