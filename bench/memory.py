"""The memory that the daemon needs for a large image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, bounded
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from bench.context import Bench

_MOST_MIB = 128
_RUNS = 3


def memory(bench: Bench) -> list[Row]:
    """The peak of a fresh daemon that imports one large image."""
    image = bench.inputs.get(bench.large)
    peaks = []
    with Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2) as server:
        for _ in range(min(_RUNS, bench.runs)):
            with Ours(bench.folder("ours"), config=source(server.url)) as ours:
                idle = ours.peak_memory()
                taken = ours.timed_import(image)
                peaks.append(ours.peak_memory())
            say(f"memory: {idle:.1f} MiB before, {peaks[-1]:.1f} MiB at most, import took {taken:.1f} s")
    size = bench.scale.large / 1e9
    case = f"daemon's peak memory (VmHWM), {size:g} GB stream"
    return [bounded(case, peaks, f"≤ {_MOST_MIB} MiB", at_most=_MOST_MIB)]
