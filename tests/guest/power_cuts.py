"""Power cuts on real ZFS, in the guest: `python -m tests.guest.power_cuts N`.

As tests/proofs/disk_cuts.py, with a disk of which QEMU logs all writes and flushes (boot.sh). One part of it
is a pool, one an ext4 with the daemon's state and imgadm's folder, and a third gets a mark whenever clients
know more, since nobody can look into the log meanwhile.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from tests.proofs.disk_cuts import FLUSH_BUFFERS, Host, Record, attached, main, run
from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import Model, World, worked
from tests.proofs.world import settings
from tests.proofs.write_log import WriteLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.proofs.world import Settings

POOL: Final = "cut"
_MIB: Final = 1 << 20
#: The part of the disk for marks, in bytes.
_MARKS: Final = (128 * _MIB, 129 * _MIB)
_MARK: Final = struct.Struct("<16sQ")
_MAGIC: Final = b"imgstore's mark\n"


class ZfsHost:
    """A pool, which ZFS wants to have 64 MiB, and a file system with the rest. A `Host`."""

    parts: ClassVar[Sequence[tuple[int, int]]] = ((0, 96 * _MIB), (96 * _MIB, 128 * _MIB))

    def make(self, devices: Sequence[Path], dice: random.Random) -> None:
        pool, state = devices
        # The pool is there before its file system: `mounted` imports it.
        run("zpool", "create", "-f", "-m", "none", "-o", "cachefile=none", POOL, str(pool))
        run("zpool", "export", "-f", POOL)
        run("mkfs.ext4", "-q", "-E", "nodiscard", str(state))

    def mounted(self, devices: Sequence[Path], place: Path) -> ExitStack:
        stack = ExitStack()
        pool, state = devices
        place.mkdir(parents=True, exist_ok=True)
        run("zpool", "import", "-f", "-N", "-o", "cachefile=none", "-d", str(pool), POOL)
        stack.callback(run, "zpool", "export", "-f", POOL)
        try:
            run("mount", "-t", "ext4", str(state), str(place))
        except AssertionError:
            stack.close()
            raise
        stack.callback(run, "umount", str(place))
        return stack

    def configure(self, made: Settings, place: Path) -> None:
        file = made.write()
        (place / "imgadm" / "images").mkdir(parents=True, exist_ok=True)
        (made.folder / "locks").mkdir(exist_ok=True)
        top = f'imgadm = "{place}/imgadm"\nimgadm_locks = "{made.folder}/locks"\n'
        file.write_text(top + file.read_text() + f'[[pool]]\ntype = "zfs"\nname = "{POOL}"\n')


def disk(serial: str) -> Path:
    """The device that boot.sh has given this serial number."""
    for path in Path("/sys/block").glob("vd*/serial"):
        if path.read_text().strip() == serial:
            return Path("/dev", path.parent.name)
    raise AssertionError(f"the guest has no disk {serial}")


class Marks:
    """The part of the disk that says what clients knew."""

    def __init__(self, device: Path) -> None:
        self._fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.models: list[Model] = []

    def write(self, model: Model) -> None:
        """Returns when the log has the mark: what comes later is after it."""
        self._page[: _MARK.size] = _MARK.pack(_MAGIC, len(self.models))
        self.models.append(model)
        os.pwrite(self._fd, self._page, _MARKS[0])

    def close(self) -> None:
        """Writes no more."""
        os.close(self._fd)


def recorded(host: Host, folder: Path, url: str, forks: Forks, seed: int, operations: int) -> Record:
    """The record of a daemon that does so many things for its clients."""
    dice = random.Random(seed)
    before = len(_log().writes)
    device = disk("recorded")
    with ExitStack() as stack:
        marks = Marks(device)
        stack.callback(marks.close)
        devices = [stack.enter_context(attached(device, *part)) for part in host.parts]
        host.make(devices, dice)
        place = folder / "mounted"
        stack.enter_context(host.mounted(devices, place))
        made = settings(folder / "host", url, place / "state")
        host.configure(made, place)
        world = World(made, dice)
        daemon = Daemon(forks, made.folder)
        stack.callback(daemon.close)
        daemon.start()
        os.sync()
        run("zpool", "sync", POOL)
        worked(world, daemon, operations, marks.write)
    return _record(marks.models, before)


def _log() -> WriteLog:
    fd = os.open(disk("log"), os.O_RDONLY)
    # QEMU wrote it behind the guest's back.
    fcntl.ioctl(fd, FLUSH_BUFFERS)
    return WriteLog(fd)


def _record(models: Sequence[Model], before: int) -> Record:
    """The record from the log, and what clients knew at each mark. Earlier ones had `before` writes."""
    log, known = _log(), []
    for number, write in enumerate(log.writes):
        if number >= before and write.size and write.offset == _MARKS[0]:
            magic, mark = _MARK.unpack_from(log.data(write))
            if magic == _MAGIC and mark == len(known) and mark < len(models):
                known.append((number + 1, models[mark]))
    assert len(known) == len(models), f"the log has {len(known)} of {len(models)} marks"
    return Record(log, known)


def in_memory() -> Path:
    """A folder for both bases, both copies, and what a check writes."""
    folder = Path("/tmp/power-cuts")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "cuts", str(folder)], check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main("tests.guest.power_cuts", ZfsHost(), recorded, in_memory()))
