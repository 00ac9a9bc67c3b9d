"""The cost of kill -9: bytes that are fetched a second time."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench.ours import IMGCTL, Ours, source
from bench.progress import say
from bench.servers import PacedNginx
from bench.table import Row, bounded
from imgstored.config.tables import LimitsTable
from imgstored.transfer.plan import range_size_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.context import Bench
    from bench.inputs import Input

_MIB = 1 << 20
_PARTS = {"half": 0.5, "90 %": 0.9}
_TIMEOUT = 120.0


def restart(bench: Bench) -> list[Row]:
    """A kill -9 in the middle of an import, and a new daemon that goes on."""
    image = bench.inputs.get(bench.gzip)
    connections, size = LimitsTable().connections, range_size_for(image.size)
    goal = f"≤ {connections * size / _MIB:g} MiB: {connections} ranges of {size / _MIB:g} MiB"
    return [
        bounded(
            f"kill -9 at {name}: fetched again",
            [_fetched_again(bench, image, name, part) / _MIB for _ in range(bench.runs)],
            goal,
            at_most=connections * size / _MIB,
        )
        for name, part in _PARTS.items()
    ]


def _fetched_again(bench: Bench, image: Input, name: str, part: float) -> int:
    """All bytes that the server sent of the file, less its size."""
    folder = bench.folder("nginx-paced")
    (folder / "access.log").unlink(missing_ok=True)
    rate = bench.scale.restart_rate
    with (
        PacedNginx(folder, root=bench.inputs.folder, rate=rate, workers=2) as server,
        Ours(bench.folder("ours"), config=source(server.url)) as ours,
    ):
        kill_when(ours, image, lambda job: job["done"] >= part * image.size)
        present = _sent(server, image)
        ours.start()
        until(lambda: installed(ours, image))
        sent = _sent(server, image)
    again = sent - image.size
    say(f"kill -9 at {name}: {present / _MIB:.1f} MiB sent before, {again / _MIB:.2f} MiB sent again")
    return again


def kill_when(ours: Ours, image: Input, due: Callable[[dict[str, Any]], bool]) -> None:
    """Lets a client import the image, and kills the daemon as soon as its job is `due`."""
    client = subprocess.Popen(
        [IMGCTL, "import", image.uuid],
        env={**os.environ, "IMGSTORED_SOCKET": str(ours.socket)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with ours.client() as asking:
            until(lambda: any(due(job) for job in asking.jobs()))
        ours.kill()
    finally:
        client.kill()
        client.wait()


def installed(ours: Ours, image: Input) -> bool:
    """Whether the image is there."""
    with ours.client() as client:
        return any(each["manifest"]["uuid"] == image.uuid for each in client.list())


def _sent(server: PacedNginx, image: Input) -> int:
    """Bytes of the file that left nginx, also those that nobody read any more."""
    path = f"/{image.uuid}/file"
    return sum(hit.bytes_sent for hit in server.settled_hits(quiet=0.5) if hit.path == path)


def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds. Raises `RuntimeError` if that takes longer than two minutes."""
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it did not come to that in {_TIMEOUT:g} s")
        time.sleep(0.02)
