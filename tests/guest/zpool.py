"""ZFS as an operator has it: pools on files, and the program `zfs`."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

#: Two processes run the tests: each has pools and folders of its own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
#: Where the pools' disks are, and where the pools are mounted.
FOLDER = Path(f"/tmp/hosts{WORKER}")


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command; unless `check` is False, it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done


class Zpool:
    """A pool on a file, for as long as the context lasts."""

    def __init__(self, name: str, size: str = "2G") -> None:
        self.name = name
        self._disk = FOLDER / f"{name}.img"
        self._size = size

    def __enter__(self) -> Zpool:
        FOLDER.mkdir(exist_ok=True)
        self._disk.unlink(missing_ok=True)
        run("truncate", "-s", self._size, str(self._disk))
        run("zpool", "create", "-m", str(self.mountpoint()), self.name, str(self._disk))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run("zpool", "destroy", "-f", self.name, check=False)
        self._disk.unlink(missing_ok=True)

    def mountpoint(self, name: str = "") -> Path:
        """Where the pool, or a dataset of it, is mounted when it is."""
        return FOLDER / self.name / name

    def device(self, name: str) -> Path:
        """A volume's device, once udev has made it."""
        path = Path("/dev/zvol", self.name, name)
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} does not appear"
            time.sleep(0.1)
        return path

    def names(self) -> list[str]:
        """All datasets and snapshots, without the pool's name: UUID, UUID@final."""
        lines = run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", self.name).stdout.split()
        return sorted(line.removeprefix(f"{self.name}/") for line in lines if line != self.name)

    def get(self, name: str, properties: str) -> list[str]:
        """Properties of a dataset or snapshot, as exact numbers."""
        command = ("zfs", "get", "-Hp", "-o", "value", properties, f"{self.name}/{name}")
        return run(*command).stdout.splitlines()

    def guid(self, name: str) -> int:
        """Of a dataset's snapshot @final."""
        return int(self.get(f"{name}@final", "guid")[0])

    def destroy(self, name: str) -> None:
        """Destroys a dataset and what depends on it, if it is still there; a volume may be open by udev."""
        for _ in range(50):
            done = run("zfs", "destroy", "-R", f"{self.name}/{name}", check=False)
            if not done.returncode or "does not exist" in done.stderr:
                return
            time.sleep(0.1)
        raise AssertionError(done.stderr)

    def empty(self) -> None:
        """Destroys all that is in it, also what is held."""
        for name in self.names():
            if "@" in name:
                for line in run("zfs", "holds", "-H", f"{self.name}/{name}").stdout.splitlines():
                    run("zfs", "release", line.split("\t")[1], f"{self.name}/{name}")
        for name in self.names():
            if "/" not in name and "@" not in name:
                self.destroy(name)

    def present(self) -> None:
        """Imports the pool if a test that failed has left it exported."""
        if run("zpool", "list", "-H", self.name, check=False).returncode:
            run("zpool", "import", "-d", str(FOLDER), self.name)

    def reimport(self) -> None:
        """Exports and imports the pool, as a reboot does."""
        run("zpool", "export", self.name)
        run("zpool", "import", "-d", str(FOLDER), self.name)


def two_versions(size: int, record: int) -> tuple[bytes, bytes]:
    """The streams of a file system with a file of random bytes, before and after some were replaced.

    `size` is the file's in bytes, `record` that of one record of it; each fifth is replaced.
    """
    name = f"versions{WORKER}"
    chance, streams = random.Random(3), []
    with Zpool(name, "128M") as pool:
        run("zfs", "create", "-o", f"recordsize={record}", f"{name}/tree")
        path = pool.mountpoint("tree") / "file"
        content = bytearray(chance.randbytes(size))
        for snapshot in ("before", "after"):
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(content)
            run("zfs", "snapshot", f"{name}/tree@{snapshot}")
            sent = subprocess.run(["zfs", "send", f"{name}/tree@{snapshot}"], capture_output=True, check=True)
            streams.append(sent.stdout)
            for start in range(0, size, 5 * record):
                content[start : start + record] = chance.randbytes(record)
    return streams[0], streams[1]
