"""Power cuts on real ZFS, in the guest: `python -m tests.guest.power_cuts N`.

The guest has a disk of which QEMU logs all writes and flushes (boot.sh). One part of it is a pool, one an
ext4 with the daemon's state and imgadm's folder, and a third gets a mark whenever clients know more. A daemon
works on them. From the log both are then made as a power cut at some moment leaves them: with all that was
flushed, and some of what was not. ZFS and ext4 take the parts as they are, a daemon starts on them, and the
same must hold as after a kill.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.guest.zpool import run
from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import BrokenPromiseError, Model, World
from tests.proofs.world import image_server, settings
from tests.proofs.write_log import SECTOR, Disk, WriteLog, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.proofs.world import Settings
    from tests.proofs.write_log import Write

POOL: Final = "cut"
_MIB: Final = 1 << 20
#: The parts of the disk in bytes: the pool, which ZFS wants to have 64 MiB, the ext4, and the marks.
_PARTS: Final = ((1 * _MIB, 97 * _MIB), (97 * _MIB, 129 * _MIB), (129 * _MIB, 130 * _MIB))
_MARK: Final = struct.Struct("<16sQ")
_MAGIC: Final = b"imgstore's mark\n"
#: How much of what was not flushed is on the disk after a cut.
_SHARES: Final = (0.0, 0.0, 0.3, 0.7, 1.0)
#: ioctl numbers of Linux's fs.h.
_RE_READ_PARTITIONS, _FLUSH_BUFFERS = 0x125F, 0x1261


def disk(serial: str) -> Path:
    """The device that boot.sh has given this serial number."""
    for path in Path("/sys/block").glob("vd*/serial"):
        if path.read_text().strip() == serial:
            return Path("/dev", path.parent.name)
    raise AssertionError(f"the guest has no disk {serial}")


def _divided(device: Path) -> list[Path]:
    """Writes a table of partitions (MBR) to the disk; returns their devices."""
    table = bytearray(SECTOR)
    for number, (start, end) in enumerate(_PARTS):
        entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", start // SECTOR, (end - start) // SECTOR)
        table[446 + 16 * number : 462 + 16 * number] = entry
    table[510:] = b"\x55\xaa"
    fd = os.open(device, os.O_RDWR)
    try:
        os.pwrite(fd, table, 0)
        os.fsync(fd)
        fcntl.ioctl(fd, _RE_READ_PARTITIONS)
    finally:
        os.close(fd)
    parts = [Path(f"{device}{number + 1}") for number in range(len(_PARTS))]
    deadline = time.monotonic() + 20
    while not all(part.exists() for part in parts):
        assert time.monotonic() < deadline, "the partitions do not appear"
        time.sleep(0.1)
    return parts


class Marks:
    """The part of the disk that says what clients knew."""

    def __init__(self, part: Path) -> None:
        self._fd = os.open(part, os.O_RDWR | os.O_DIRECT)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.models: list[Model] = []

    def write(self, model: Model) -> None:
        """Returns when the log has the mark: what comes later is after it."""
        self._page[: _MARK.size] = _MARK.pack(_MAGIC, len(self.models))
        self.models.append(copy.deepcopy(model))
        os.pwrite(self._fd, self._page, 0)

    def close(self) -> None:
        """Writes no more."""
        os.close(self._fd)


@dataclass(frozen=True)
class Record:
    """What a daemon did to its disk. `known` has the numbers of writes after which clients knew more."""

    log: WriteLog
    known: Sequence[tuple[int, Model]]

    @property
    def begin(self) -> int:
        """The first moment of interest: the pool and the file system are made."""
        return self.known[0][0]

    def model_at(self, moment: int) -> Model:
        """What clients knew when so many writes had been made."""
        return copy.deepcopy([model for after, model in self.known if after <= moment][-1])


def configured(made: Settings, mounted: Path) -> None:
    """Writes the configuration of a daemon of the pool, whose state is on that file system."""
    file = made.write()
    (mounted / "imgadm" / "images").mkdir(parents=True, exist_ok=True)
    (made.folder / "locks").mkdir(exist_ok=True)
    top = f'imgadm = "{mounted}/imgadm"\nimgadm_locks = "{made.folder}/locks"\n'
    file.write_text(top + file.read_text() + f'[[pool]]\ntype = "zfs"\nname = "{POOL}"\n')


@contextmanager
def mounted(device: Path, place: Path, *options: str) -> Iterator[None]:
    """An ext4, mounted."""
    place.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "ext4", *options, str(device), str(place))
    try:
        yield
    finally:
        run("umount", str(place))


def recorded(folder: Path, url: str, forks: Forks, seed: int, operations: int) -> Record:
    """The record of a daemon that does so many things for its clients, and is killed now and then."""
    dice = random.Random(seed)
    pool, state, marks_on = _divided(disk("recorded"))
    run("zpool", "create", "-f", "-m", "none", "-o", "cachefile=none", POOL, str(pool))
    run("mkfs.ext4", "-q", "-E", "nodiscard", str(state))
    marks = Marks(marks_on)
    place = folder / "disk"
    with ExitStack() as stack:
        stack.callback(run, "zpool", "export", "-f", POOL)
        stack.callback(marks.close)
        stack.enter_context(mounted(state, place))
        made = settings(folder / "host", url, place / "state")
        configured(made, place)
        world = World(made, dice)
        daemon = Daemon(forks, made.folder)
        stack.callback(daemon.close)
        daemon.start()
        os.sync()
        run("zpool", "sync", POOL)
        marks.write(world.model)
        for number in range(operations):
            operation = world.next()
            world.asked(operation)
            marks.write(world.model)
            failure = world.attempt(operation)
            if failure is not None:
                raise BrokenPromiseError(f"{operation} failed: {failure}")
            world.done(operation)
            if operation.name == "leave":
                world.check()
            marks.write(world.model)
            if number % 5 == 4:
                daemon.kill()
                daemon.start()
        daemon.kill()
    return read_record(marks.models)


def read_record(models: Sequence[Model]) -> Record:
    """The record from the log, and what clients knew at each mark."""
    fd = os.open(disk("log"), os.O_RDONLY)
    # QEMU wrote it behind the guest's back.
    fcntl.ioctl(fd, _FLUSH_BUFFERS)
    log = WriteLog(fd)
    known = []
    for number, write in enumerate(log.writes):
        if write.size and write.offset == _PARTS[2][0]:
            magic, mark = _MARK.unpack_from(log.data(write))
            if magic == _MAGIC and mark == len(known) and mark < len(models):
                known.append((number + 1, models[mark]))
    assert len(known) == len(models), f"the log has {len(known)} of {len(models)} marks"
    return Record(log, known)


class Cuts:
    """Cuts of one record, from its beginning to its end."""

    def __init__(self, folder: Path, url: str, forks: Forks, record: Record) -> None:
        self.folder = folder
        self.record = record
        self._forks = forks
        self._place = folder / "mounted"
        self._made = settings(folder / "after", url, self._place / "state")
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / "pool.base", folder / "state.base"]
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in self._files]
        self._disk = Disk(record.log, self._fds, _PARTS[:2])

    def run(self, moments: Sequence[int], seed: int) -> Iterator[tuple[int, str | None]]:
        """Cuts at these moments, which rise; each with the promise that is broken, or None."""
        for moment in moments:
            dice = random.Random(f"{seed}-{moment}")
            share = dice.choice(_SHARES)
            made = cut(self.record.log.writes, moment, share, dice)
            self._disk.advance(made.durable)
            paths = [self.folder / "pool.img", self.folder / "state.img"]
            for source, path in zip(self._files, paths, strict=True):
                run("cp", "--sparse=always", str(source), str(path))
            fds = [os.open(path, os.O_RDWR) for path in paths]
            for number, begin, end in made.kept:
                self._disk.write(self.record.log.writes[number], begin, end, fds)
            for fd in fds:
                os.close(fd)
            kept = [path.read_bytes() for path in paths]
            wrong = self._broken(paths, moment)
            if wrong is not None:
                # What comes of the very same disks once more tells whether it is the disks.
                for path, data in zip(paths, kept, strict=True):
                    path.write_bytes(data)
                    (self.folder / f"broken-{moment}-{path.name}").write_bytes(data)
                again = self._broken(paths, moment)
                where = f"seed {seed}, write {moment} of {len(self.record.log.writes)}, share {share}"
                wrong = f"{where}: {wrong}\nthe same disks once more: {again or 'nothing is broken'}"
            yield moment, wrong

    def _broken(self, paths: Sequence[Path], moment: int) -> str | None:
        """The promise that these disks break, with what is on the disk and in the log; or None."""
        try:
            self._check(paths, self.record.model_at(moment))
        except (BrokenPromiseError, RuntimeError, AssertionError) as error:
            return f"{type(error).__name__}: {error}\n{self._seen}"
        return None

    def _look(self) -> None:
        names = run("ls", "-lR", str(self._place)).stdout
        self._seen = f"{names}\n{(self._made.folder / 'log').read_text()}"

    def _check(self, paths: Sequence[Path], model: Model) -> None:
        self._seen = ""
        vdev, state = paths
        with ExitStack() as stack:
            # The pool was made on a disk, and ZFS looks for it on disks alone.
            loop = run("losetup", "--find", "--show", str(vdev)).stdout.strip()
            stack.callback(run, "losetup", "--detach", loop)
            run("zpool", "import", "-f", "-N", "-o", "cachefile=none", "-d", loop, POOL)
            stack.callback(run, "zpool", "export", "-f", POOL)
            stack.enter_context(mounted(state, self._place, "-o", "loop"))
            configured(self._made, self._place)
            world = World(self._made, random.Random(0), model)
            (self._made.folder / "ready").unlink(missing_ok=True)
            daemon = Daemon(self._forks, self._made.folder)
            stack.callback(daemon.close)
            stack.callback(self._look)
            daemon.start()
            world.check()

    def close(self) -> None:
        """Closes the files."""
        for fd in self._fds:
            os.close(fd)


def moments(writes: Sequence[Write], begin: int, count: int, dice: random.Random) -> list[int]:
    """Different moments after `begin`, in their order; half of them right before or after a flush."""
    all_of_them = range(begin, len(writes) + 1)
    flushes = [each + late for each in all_of_them[:-1] if writes[each].flush for late in (0, 1)]
    chosen = set(dice.sample(flushes, min(count // 2, len(flushes))))
    rest = [each for each in all_of_them if each not in chosen]
    chosen.update(dice.sample(rest, min(count - len(chosen), len(rest))))
    return sorted(chosen)


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.power_cuts", description=__doc__)
    parser.add_argument("cuts", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--operations", type=int, default=24)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    folder = Path("/tmp/power-cuts")
    folder.mkdir()
    # Both bases, both copies, and what a check writes.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "cuts", str(folder)], check=True)
    began, made, broken = time.monotonic(), 0, 0
    with image_server(folder / "server") as url, Forks() as forks:
        record = recorded(folder / "run", url, forks, seed, arguments.operations)
        writes = record.log.writes
        flushes = sum(each.flush for each in writes)
        print(
            f"seed {seed}: {len(writes)} writes and flushes ({flushes}), {len(record.known)} marks",
            flush=True,
        )
        cuts = Cuts(folder / "cuts", url, forks, record)
        chosen = moments(writes, record.begin, arguments.cuts, random.Random(seed))
        for _, wrong in cuts.run(chosen, seed):
            made += 1
            broken += wrong is not None
            if wrong is not None:
                print(wrong, flush=True)
            if made % 10 == 0:
                _report(made, broken, began)
        cuts.close()
    _report(made, broken, began)
    return int(bool(broken))


def _report(made: int, broken: int, began: float) -> None:
    figures = {"cuts": made, "broken": broken, "seconds": round(time.monotonic() - began)}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())
