"""A daemon under load: `python -m tests.proofs.load [OPTIONS]`; prints the figures as JSON.

Thousands of connections of which hundreds ask at once, a pool with thousands of images, and thousands of
installations and deletions, under which neither memory nor descriptors may grow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgctl import Client

from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.catalog.receipts import Receipts, receipt_of
from imgstored.pools.embedded import EmbeddedPool
from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import World, faults
from tests.proofs.world import SMALL, image_server, made, settings
from tests.support.streams import StreamWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LIMITS: Final = "[limits]\nmin_free_mib = 1\nclients = 4096\nuser_clients = 4096\nuser_requests = 4096\n"


class Load:
    """A daemon with room for many clients, on a folder of its own."""

    def __init__(self, folder: Path, url: str, forks: Forks) -> None:
        self.made = settings(folder, url)
        file = self.made.write()
        # Nothing is kept in the library: it is the pool that is looked at.
        text = file.read_text().replace("keep_mib = 2", "keep_mib = 0")
        file.write_text(text.replace("[limits]\nmin_free_mib = 1\n", _LIMITS))
        self.daemon = Daemon(forks, folder)
        self.world = World(self.made, random.Random(0))

    def client(self) -> Client:
        return Client(str(self.daemon.socket))

    # -- many clients ----------------------------------------------------------------------------------------

    def connections(self, count: int, asking: int) -> dict[str, Any]:
        """So many connections, of which so many ask at once, each three times."""
        seconds: list[float] = []
        failures: list[str] = []
        with ExitStack() as stack:
            clients = [stack.enter_context(self.client()) for _ in range(count)]
            start = threading.Barrier(asking)

            def ask(client: Client) -> None:
                start.wait()
                for _ in range(3):
                    began = time.monotonic()
                    try:
                        client.list()
                    except Exception as error:  # noqa: BLE001  (whatever it is, it is counted)
                        failures.append(repr(error))
                    seconds.append(time.monotonic() - began)

            threads = [threading.Thread(target=ask, args=(client,)) for client in clients[:asking]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            open_files = self.descriptors()
        return {
            "connections": count,
            "asking": asking,
            "failed": len(failures),
            "first failures": failures[:3],
            "descriptors": open_files,
            **percentiles(seconds),
        }

    # -- many images -----------------------------------------------------------------------------------------

    def images(self, count: int) -> dict[str, Any]:
        """Installs so many, as a daemon does it; what a start takes then, and a list."""
        state = self.made.state
        state.mkdir(parents=True, exist_ok=True)
        pool = EmbeddedPool("zones", state / "pool")
        files, receipts = ManifestFiles(state / "imgadm" / "images"), Receipts(state / "receipts")
        files.prepare()
        for number in range(count):
            uuid = f"77777777-aaaa-4bbb-8ccc-{number:012}"
            writer = StreamWriter(guid=number + 1)
            stream = writer.begin() + writer.object(1) + writer.write(1, 0, bytes(512)) + writer.end()
            image = pool.receive(uuid, [stream])
            manifest = {**made()[SMALL].manifest, "uuid": uuid, "name": f"image-{number}"}
            manifest["files"] = [{"sha1": hashlib.sha1(stream).hexdigest(), "size": len(stream)}]
            files.write("zones", uuid, manifest, None)
            receipts.write("zones", uuid, receipt_of(image, len(stream), None))
            pool.publish(uuid)
        pool.close()
        started = timed(lambda: self.daemon.start(600))
        with self.client() as client:
            lists = [timed(client.list) for _ in range(5)]
            assert len(client.list()) == count
        again = timed(self._restart)
        checked = timed(lambda: faults(self.made.folder / "imgstored.toml"))
        return {
            "images": count,
            "first start": round(started, 3),
            "start": round(again, 3),
            "list": round(statistics.median(lists), 3),
            "check --deep": round(checked, 1),
            "memory": self.memory(),
        }

    def _restart(self) -> None:
        self.daemon.stop()
        self.daemon.start(600)

    # -- churn -----------------------------------------------------------------------------------------------

    def churn(self, cycles: int) -> dict[str, Any]:
        """Installs and deletes an image so many times; what the daemon has at ten moments of it."""
        samples: list[tuple[int, int]] = []
        seconds: list[float] = []
        with self.client() as client:
            for cycle in range(1, cycles + 1):
                began = time.monotonic()
                client.import_image(SMALL)
                client.delete(SMALL)
                seconds.append(time.monotonic() - began)
                if cycle % max(1, cycles // 10) == 0:
                    samples.append((self.memory(), self.descriptors()))
                    print(f"{cycle} cycles: {samples[-1][0]} bytes, {samples[-1][1]} descriptors", flush=True)
        return {
            "cycles": cycles,
            "memory": [memory for memory, _ in samples],
            "descriptors": [open_files for _, open_files in samples],
            **percentiles(seconds),
        }

    def memory(self) -> int:
        """Bytes of the daemon's own memory (RssAnon of proc(5))."""
        text = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) << 10

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))


def is_flat(values: Sequence[float], more: float) -> bool:
    """Whether the last third of the values is at most so many times the second one; the first warms up."""
    third = len(values) // 3
    return statistics.median(values[-third:]) <= more * statistics.median(values[third : 2 * third])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(cuts[49], 4), "p95": round(cuts[94], 4), "p99": round(cuts[98], 4)}


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def more_descriptors() -> None:
    """As many as this process may have: each connection is one here, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Returns 1 if something failed, or grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.load", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000, help="0: none of this, and of --images")
    parser.add_argument("--asking", type=int, default=500)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--cycles", type=int, default=10000)
    arguments = parser.parse_args()
    more_descriptors()
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="imgstore-load-", dir=base))
    found: dict[str, Any] = {}
    with image_server(folder / "server") as url, Forks() as forks:
        if arguments.images:
            many = Load(folder / "many", url, forks)
            try:
                found["images"] = many.images(arguments.images)
                found["clients of many images"] = many.connections(50, 20)
            finally:
                many.daemon.close()
        few = Load(folder / "few", url, forks)
        try:
            few.daemon.start()
            if arguments.connections:
                found["clients"] = few.connections(arguments.connections, arguments.asking)
            found["churn"] = few.churn(arguments.cycles)
            few.world.check()
        finally:
            few.daemon.close()
    shutil.rmtree(folder)
    print(json.dumps(found, indent=1))
    churn = found["churn"]
    flat = is_flat(churn["memory"], 1.1) and is_flat(churn["descriptors"], 1.0)
    return int(bool(found.get("clients", {}).get("failed")) or not flat)


if __name__ == "__main__":
    sys.exit(main())
