"""Where the time of an import goes: the processor time of each stage's threads, and what each waits for.

Linux counts for each thread how long it ran, and how long it was ready to run and waited for a processor
(/proc/PID/task/TID/schedstat). In the rest of its life it waited for other stages, the network or the disk.
So the stage that is at work all the time shows also on a machine that has other work.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, seconds
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.context import Bench
    from bench.inputs import Kind

#: By the start of a thread's name.
_STAGES = {
    "_transfer": "connections",
    "digest": "read, SHA-1",
    "decompress": "decompress",
    "parallel": "decompress",
    "run": "verify, write",
}
_REST = "the rest of the daemon"
#: Seconds between two looks at the threads; where processors are emulated, a look takes some milliseconds.
_INTERVAL = 0.005


@dataclass(slots=True)
class Times:
    """Seconds of a thread."""

    since: float
    ran: float
    waited: float
    until: float = 0.0
    stage: str = _REST
    ran_before: float = 0.0
    waited_before: float = 0.0


def stages(bench: Bench) -> list[Row]:
    """A row for each stage of gzip with and without TLS, and of zstd."""
    rows = []
    for name, kind, tls in (
        ("gzip", bench.gzip, False),
        ("gzip over TLS", bench.gzip, True),
        ("zstd", bench.zstd, False),
    ):
        rows += _rows(bench, name, kind, tls=tls)
    return rows


def _rows(bench: Bench, name: str, kind: Kind, *, tls: bool) -> list[Row]:
    image = bench.inputs.get(kind)
    taken: dict[str, list[tuple[float, float]]] = {}
    with (
        Nginx(bench.folder("nginx-stages"), root=bench.inputs.folder, workers=2, tls=tls) as server,
        Ours(bench.folder("ours"), config=source(server.url, ca=server.ca_file if tls else None)) as ours,
    ):
        for run in range(bench.runs):
            with watched(ours.pid) as threads:
                ours.timed_imgctl("import", image.uuid)
            ours.timed_imgctl("delete", image.uuid)
            for stage, (ran, busy) in summed(threads).items():
                taken.setdefault(stage, []).append((ran, busy))
            say(f"stages of {name} {run + 1}/{bench.runs}: {taken}")
    return [
        Row(
            f"{name}: {stage}",
            seconds([ran for ran, _ in each]),
            f"{100 * min(busy for _, busy in each):.0f}–{100 * max(busy for _, busy in each):.0f} % at work",
        )
        for stage, each in taken.items()
    ]


def summed(threads: dict[str, Times]) -> dict[str, tuple[float, float]]:
    """Of each stage, the seconds of processor time, and the share of its life that a thread worked."""
    found: dict[str, tuple[float, float]] = dict.fromkeys([*_STAGES.values(), _REST], (0.0, 0.0))
    for each in threads.values():
        ran, waited = each.ran - each.ran_before, each.waited - each.waited_before
        life = max(each.until - each.since, 1e-9)
        before, share = found[each.stage]
        found[each.stage] = before + ran, max(share, min(1.0, (ran + waited) / life))
    return found


@contextmanager
def watched(pid: int | None, *, interval: float = _INTERVAL) -> Iterator[dict[str, Times]]:
    """The times of the process's threads meanwhile, by thread."""
    folder, threads, ended = Path(f"/proc/{pid}/task"), dict[str, Times](), threading.Event()
    there = {path.name for path in folder.iterdir()}

    def watch() -> None:
        while not ended.wait(interval):
            for path in folder.iterdir():
                with suppress(OSError):  # the thread has ended
                    _look(path, threads, new=path.name not in there)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield threads
    finally:
        ended.set()
        watcher.join()


def _look(path: Path, threads: dict[str, Times], *, new: bool) -> None:
    ran, waited = (int(word) / 1e9 for word in (path / "schedstat").read_text().split()[:2])
    now = time.monotonic()
    times = threads.setdefault(path.name, Times(now, ran, waited))
    if times.until == 0.0 and not new:
        times.ran_before, times.waited_before = ran, waited
    times.ran, times.waited, times.until = ran, waited, now
    name = (path / "comm").read_text()
    # A thread of trio has another name for each call, and a new thread that of whoever started it.
    times.stage = next((stage for start, stage in _STAGES.items() if name.startswith(start)), times.stage)
