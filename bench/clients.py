"""Many clients that want the same image at the same time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from imgctl import RemoteError

from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, seconds
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from bench.context import Bench
    from bench.inputs import Input


def clients(bench: Bench) -> list[Row]:
    """All of them `ensure` it, and one download serves them."""
    image = bench.inputs.get(bench.gzip)
    count = bench.scale.clients
    taken: list[float] = []
    succeeded, downloads = count, 0.0
    for _ in range(bench.runs):
        folder = bench.folder("nginx")
        (folder / "access.log").unlink(missing_ok=True)
        with (
            Nginx(folder, root=bench.inputs.folder, workers=2) as server,
            Ours(bench.folder("ours"), config=source(server.url)) as ours,
        ):
            begun = time.perf_counter()
            faults = _ensure(ours, image, count)
            taken.append(time.perf_counter() - begun)
            path = f"/{image.uuid}/file"
            sent = sum(hit.bytes_sent for hit in server.settled_hits() if hit.path == path)
        succeeded = min(succeeded, count - len(faults))
        downloads = max(downloads, sent / image.size)
        downloaded = f"{sent / image.size:.3f} downloads"
        say(f"{count} clients: {taken[-1]:.2f} s, {downloaded}, faults: {faults[:3] or 'none'}")
    return [
        Row(
            f"{count} clients `ensure` one image",
            f"{succeeded} succeed, {downloads:.2f} downloads, {seconds(taken)}",
            goal="all succeed, 1 download",
            # A slow range may be asked for a second time; a second download would be twice as much.
            reached=succeeded == count and 0.99 < downloads < 1.1,
        )
    ]


def _ensure(ours: Ours, image: Input, count: int) -> list[str]:
    """Lets all of them ask at once; returns what went wrong."""
    together = threading.Barrier(count)
    faults: list[str] = []

    def ensure() -> None:
        together.wait(60)
        try:
            with ours.client() as client:
                client.ensure([image.uuid])
        except RemoteError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=ensure) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ours.client() as client:
        if not any(each["manifest"]["uuid"] == image.uuid for each in client.list()):
            faults.append("the image is not installed")
    return faults
