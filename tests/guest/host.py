"""A ZFS host: two pools, imgadm's files, the real daemon, an image server, and a large image for it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import Served
from tests.e2e.test_on_demand import jobs, until
from tests.guest.zpool import WORKER, Zpool, run
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The daemon's default pool, and one with a digit in its name.
POOL, SECOND = f"hive{WORKER}", f"hive{WORKER}x2"
ORIGIN = f"origin{WORKER}"
#: Made by `large_image`.
LARGE = "44444444-aaaa-4bbb-8ccc-000000000009"
_MIB = 1 << 20


@dataclass
class Host:
    """Everything together. `folder` has the daemon's state and imgadm's; `gate` holds LARGE back."""

    folder: Path
    pool: Zpool
    second: Zpool
    served: Served
    gate: Gate
    daemon: Daemon

    @property
    def imgadm(self) -> Path:
        """As /var/imgadm."""
        return self.folder / "imgadm"

    @property
    def locks(self) -> Path:
        """As /var/run."""
        return self.folder / "run"

    def manifest_file(self, uuid: str, pool: str = POOL) -> Path:
        """imgadm's file of an image."""
        return self.imgadm / "images" / f"{pool}-{uuid}.json"

    def log(self, event: str) -> list[dict[str, Any]]:
        """The daemon's log lines of that event, of all its lives."""
        lines = self.daemon.log.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record for record in records if record.get("event") == event]

    def spooled(self) -> list[str]:
        """What is in the spool folder."""
        return sorted(path.name for path in (self.daemon.folder / "state" / "spool").iterdir())

    def ensure(self, *uuids: str) -> None:
        """Imports by a client in this process, which is quicker than a command under emulation."""
        with self.daemon.client() as client:
            client.ensure(list(uuids))

    def listed(self) -> set[str]:
        """What the daemon says is installed, as POOL/UUID."""
        with self.daemon.client() as client:
            return {f"{image['zpool']}/{image['manifest']['uuid']}" for image in client.list()}

    def idle(self) -> None:
        """Returns when no import is under way."""
        until(lambda: jobs(self.daemon) == [], seconds=120)

    def clear(self) -> None:
        """Nothing is installed, held or half received any more, and the daemon runs and knows it.

        Whatever a test did, also one that failed: the server serves all that it has, and the pools are there.
        """
        self.gate.open()
        if not self.served.nginx.running:
            self.served.nginx.start()
        for pool in (self.pool, self.second):
            pool.present()
        if self.daemon.process is None or self.daemon.process.poll() is not None:
            self.daemon.start()
        with self.daemon.client() as client:
            for job in client.jobs():
                client.cancel(job["uuid"])
        self.pool.empty()
        self.second.empty()
        until(lambda: self.listed() == set(), seconds=60)
        for path in (self.imgadm / "images").iterdir():
            path.unlink()


@contextlib.contextmanager
def zfs_host(folder: Path, *, view: str = "files") -> Iterator[Host]:
    """A host whose daemon is not started."""
    pages = ImageSite(folder / "site")
    pages.add_fixtures()
    (folder / "imgadm" / "images").mkdir(parents=True)
    (folder / "run").mkdir()
    with (
        Zpool(POOL) as pool,
        Zpool(SECOND) as second,
        Gate(pages.folder) as gate,
        Nginx(folder / "nginx", root=pages.folder, locations={f"/{LARGE}/": gate.location}) as server,
    ):
        conf = {
            "dockerImportSkipUuids": True,
            "upgradedToVer": "3.0.0",
            "sources": [{"type": "static", "url": server.url}],
            "ours": {"deep": [1, 2]},
        }
        (folder / "imgadm" / "imgadm.conf").write_text(json.dumps(conf, indent=2))
        daemon = Daemon(
            folder / "store",
            top=f'imgadm = "{folder}/imgadm"\nimgadm_locks = "{folder}/run"\n',
            config=f'[[pool]]\ntype = "zfs"\nname = "{POOL}"\n[[pool]]\ntype = "zfs"\nname = "{SECOND}"\n'
            "[limits]\nconnections = 4\ntries = 2\nmin_rate = 0\n",
            view=view,
            timeout=90,
        )
        daemon.log.touch()
        try:
            yield Host(folder, pool, second, Served(pages, server), gate, daemon)
        finally:
            # Also when a test left it dead, its mount is to go.
            daemon.__exit__(None, None, None)


@dataclass(frozen=True)
class LargeImage:
    """An image of which ZFS made the stream, and where its content can be compared."""

    manifest: dict[str, Any]
    file: bytes
    stream: bytes
    guid: int
    content: Path


@contextlib.contextmanager
def large_image(mib: int = 24) -> Iterator[LargeImage]:
    """A filesystem with `mib` MiB that hardly compress, and some small files."""
    with Zpool(ORIGIN, "512M") as pool:
        run("zfs", "create", f"{ORIGIN}/large")
        folder, chance = pool.mountpoint("large"), random.Random(11)
        for number in range(mib):
            (folder / f"random-{number}").write_bytes(chance.randbytes(_MIB))
            (folder / f"text-{number}").write_text("".join(f"line {chance.random()}\n" for _ in range(200)))
        run("zfs", "snapshot", f"{ORIGIN}/large@final")
        stream = subprocess.run(
            ["zfs", "send", f"{ORIGIN}/large@final"], capture_output=True, check=True
        ).stdout
        file = gzip.compress(stream, compresslevel=1)
        manifest = {
            "v": 2,
            "uuid": LARGE,
            "owner": "00000000-0000-0000-0000-000000000000",
            "name": "large",
            "version": "1.0.0",
            "state": "active",
            "disabled": False,
            "public": True,
            "published_at": "2026-11-24T00:00:09.000Z",
            "type": "zone-dataset",
            "os": "smartos",
            "files": [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}],
        }
        yield LargeImage(manifest, file, stream, pool.guid("large"), folder)


def same_content(pool: Zpool, snapshot: str, other: Path) -> None:
    """Asserts that a snapshot has the same files as a folder."""
    mounted = pool.mountpoint().parent / "compared"
    mounted.mkdir(exist_ok=True)
    run("mount", "-t", "zfs", f"{pool.name}/{snapshot}", str(mounted))
    try:
        assert any(path.is_file() for path in mounted.rglob("*"))
        run("diff", "-r", "--no-dereference", str(mounted), str(other))
    finally:
        run("umount", str(mounted))


def installed_by_imgadm(host: Host, manifest: dict[str, Any], stream: bytes) -> None:
    """imgadm's own steps (its lib/imgadm.js): the manifest's file, a receive, two renames."""
    uuid = manifest["uuid"]
    record = {"manifest": manifest, "zpool": POOL, "source": "https://images.smartos.org"}
    host.manifest_file(uuid).write_text(json.dumps(record, indent=2) + "\n")
    dataset = f"{POOL}/{uuid}"
    subprocess.run(["zfs", "receive", f"{dataset}-partial"], input=stream, check=True)
    (snapshot,) = (name for name in host.pool.names() if name.startswith(f"{uuid}-partial@"))
    if not snapshot.endswith("@final"):
        run("zfs", "rename", "-r", f"{POOL}/{snapshot}", f"{dataset}-partial@final")
    run("zfs", "rename", f"{dataset}-partial", dataset)


def seconds_until(condition: Any, *, within: float) -> float:
    """How long it takes until the condition holds."""
    begun = time.monotonic()
    until(condition, seconds=within)
    return time.monotonic() - begun
