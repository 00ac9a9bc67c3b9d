"""The memory that the daemon needs for a large image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, bounded
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from bench.context import Bench
    from bench.inputs import Kind

#: MiB: of gzip, and of the others.
_MOST_GZIP = 80
_MOST = 160
_RUNS = 3


def memory(bench: Bench) -> list[Row]:
    """The peak of a fresh daemon that imports one image: a large one, and those that need most memory."""
    size = f"{bench.scale.large / 1e9:g} GB stream"
    return [
        _row(bench, bench.large, size, _MOST_GZIP),
        _row(bench, bench.xz_window, "xz -9", _MOST),
        _row(bench, bench.xz, "xz of several blocks", _MOST),
        _row(bench, bench.zstd_window, "zstd --long=26", _MOST),
    ]


def _row(bench: Bench, kind: Kind, what: str, most: int) -> Row:
    image = bench.inputs.get(kind)
    peaks = []
    with Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2) as server:
        for _ in range(min(_RUNS, bench.runs)):
            with Ours(bench.folder("ours"), config=source(server.url)) as ours:
                idle = ours.peak_memory()
                taken = ours.timed_import(image)
                peaks.append(ours.peak_memory())
            say(f"memory, {what}: {idle:.1f} MiB before, {peaks[-1]:.1f} MiB at most, {taken:.1f} s")
    return bounded(f"daemon's peak memory (VmHWM), {what}", peaks, f"≤ {most} MiB", at_most=most)
