"""Power cuts of a disk with ext4: `python -m tests.proofs.disk_cuts [OPTIONS] N`.

The disk is a file of which each write and each flush is written down (`recording`), with a file system that
holds the daemon's state. From the record of one daemon's work the disk is made as a power cut at some moment
leaves it: with all that was flushed, and some of what was not, in whole writes and in sectors. The kernel
mounts it, a daemon starts on it, and the same must hold as after a kill.

tests/guest/power_cuts.py has another kind of disk, with a ZFS pool.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import BrokenPromiseError, Model, World, worked
from tests.proofs.recording import Mounted, Recorder
from tests.proofs.world import image_server, settings
from tests.proofs.write_log import Disk, Write, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.proofs.recording import Change
    from tests.proofs.world import Settings
    from tests.proofs.write_log import Log

_MIB: Final = 1 << 20
_CALLS: Final = ("write", "sync")
#: The ioctl number of Linux's fs.h: the kernel forgets what it has read of a device.
FLUSH_BUFFERS: Final = 0x1261
#: How much of what was not flushed is on the disk after a cut.
SHARES: Final = (0.0, 0.0, 0.3, 0.7, 1.0)


def run(*command: str) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def attached(path: Path, start: int = 0, end: int | None = None) -> Iterator[Path]:
    """The device of a loop whose content is a range of a file or of a disk, in bytes.

    `mount -o loop` would take the device of the last disk, with what the kernel remembers of it, if a program
    such as udevd still had that open. Also of a device that was given back, the kernel forgets only the pages
    that nobody looks at. So udevd comes first, each time.
    """
    size = [] if end is None else ["--sizelimit", str(end - start)]
    device = run("losetup", "--find", "--show", "--offset", str(start), *size, str(path))
    try:
        _settle()
        with Path(device).open("rb") as file:
            fcntl.ioctl(file, FLUSH_BUFFERS)
        yield Path(device)
    finally:
        _settle()
        run("losetup", "--detach", device)


def _settle() -> None:
    """Waits until udevd, if it runs, has looked at all devices that came."""
    if Path("/run/udev/control").exists():
        run("udevadm", "settle")


class Host(Protocol):
    """What is on the disk, and what a daemon has of it."""

    #: The parts of the disk, in bytes.
    parts: ClassVar[Sequence[tuple[int, int]]]

    def make(self, devices: Sequence[Path], dice: random.Random) -> None:
        """Makes what is in the parts."""

    def mounted(self, devices: Sequence[Path], place: Path) -> ExitStack:
        """Mounts the parts for the time of a block, the state at `place`."""

    def configure(self, made: Settings, place: Path) -> None:
        """Writes the configuration of a daemon whose state is there."""


class Ext4Host:
    """A file system with the state and the embedded pool. A `Host`."""

    parts: ClassVar[Sequence[tuple[int, int]]] = ((0, 48 * _MIB),)

    def make(self, devices: Sequence[Path], dice: random.Random) -> None:
        block = dice.choice(("1024", "4096"))
        run("mkfs.ext4", "-q", "-b", block, "-E", "nodiscard", str(devices[0]))

    def mounted(self, devices: Sequence[Path], place: Path) -> ExitStack:
        stack = ExitStack()
        place.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "ext4", str(devices[0]), str(place))
        stack.callback(run, "umount", str(place))
        return stack

    def configure(self, made: Settings, place: Path) -> None:
        made.write()


@dataclass(frozen=True)
class Record:
    """What a daemon did to its disk. `known` has the numbers of writes after which clients knew more."""

    log: Log
    known: Sequence[tuple[int, Model]]

    @property
    def begin(self) -> int:
        """The first moment of interest: what is on the disk is made."""
        return self.known[0][0]

    def model_at(self, moment: int) -> Model:
        """What clients knew when so many writes had been made."""
        return copy.deepcopy([model for after, model in self.known if after <= moment][-1])


class Changes:
    """The writes of one file of a recorder's. A `Log`."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.writes: list[Write] = []
        self._data: list[bytes] = []
        for change in changes:
            if change.call == "write":
                self.writes.append(Write(change.offset, len(change.data), len(self._data)))
                self._data.append(change.data)
            elif change.call == "sync":
                self.writes.append(Write(flush=True))

    def data(self, write: Write) -> bytes:
        """The bytes of a write."""
        return self._data[write.at]


def recorded(host: Host, folder: Path, url: str, forks: Forks, seed: int, operations: int) -> Record:
    """The record of a daemon that does so many things for its clients, and is killed now and then."""
    dice = random.Random(seed)
    recorder = Recorder()
    known: list[tuple[int, Model]] = []
    with Mounted(recorder, folder / "recorded") as there, ExitStack() as stack:
        image = there.place / "disk"
        image.touch()
        os.truncate(image, max(end for _, end in host.parts))
        inode = image.stat().st_ino

        def written() -> list[Change]:
            return [each for each in recorder.changes if each.inode == inode and each.call in _CALLS]

        devices = [stack.enter_context(attached(image, *part)) for part in host.parts]
        host.make(devices, dice)
        with host.mounted(devices, folder / "mounted"):
            made = settings(folder / "host", url, folder / "mounted" / "state")
            host.configure(made, folder / "mounted")
            world = World(made, dice)
            daemon = Daemon(forks, made.folder)
            stack.callback(daemon.close)
            daemon.start()
            os.sync()
            worked(world, daemon, operations, lambda model: known.append((len(written()), model)))
    return Record(Changes(written()), known)


class Cuts:
    """Cuts of one record, from its beginning to its end."""

    def __init__(self, host: Host, folder: Path, url: str, forks: Forks, record: Record) -> None:
        self.folder = folder
        self.record = record
        self._host = host
        self._forks = forks
        self._place = folder / "mounted"
        folder.mkdir(parents=True, exist_ok=True)
        self._made = settings(folder / "after", url, self._place / "state")
        self._files = [folder / f"base-{number}" for number in range(len(host.parts))]
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in self._files]
        self._disk = Disk(record.log, self._fds, host.parts)

    def run(
        self, moments: Sequence[int], seed: int, *, shares: Sequence[float] = SHARES, forgets: int = 0
    ) -> Iterator[tuple[int, str | None]]:
        """Cuts at these moments, which rise; each with the promise that is broken, or None.

        A disk that `forgets` so many flushes had not made durable what it said.
        """
        writes = self.record.log.writes
        for moment in moments:
            dice = random.Random(f"{seed}-{moment}")
            share = dice.choice(shares)
            made = cut(writes, moment, share, dice, forgets=forgets)
            self._disk.advance(made.durable)
            paths = [self.folder / f"disk-{number}" for number in range(len(self._files))]
            for source, path in zip(self._files, paths, strict=True):
                run("cp", "--sparse=always", str(source), str(path))
            fds = [os.open(path, os.O_RDWR) for path in paths]
            for number, begin, end in made.kept:
                self._disk.write(writes[number], begin, end, fds)
            for fd in fds:
                os.close(fd)
            kept = [path.read_bytes() for path in paths]
            wrong = self._broken(paths, moment)
            if wrong is not None:
                # What comes of the very same disks once more tells whether it is the disks.
                first = not list(self.folder.glob("broken-*"))
                for path, data in zip(paths, kept, strict=True):
                    path.write_bytes(data)
                    if first:  # there is not the room for all
                        (self.folder / f"broken-{moment}-{path.name}").write_bytes(data)
                again = self._broken(paths, moment)
                where = f"seed {seed}, write {moment} of {len(writes)}, share {share}"
                wrong = f"{where}: {wrong}\nthe same disks once more: {again or 'nothing is broken'}"
            yield moment, wrong

    def _broken(self, paths: Sequence[Path], moment: int) -> str | None:
        """The promise that these disks break, with what is on them and in the log; or None."""
        self._seen = ""
        try:
            self._check(paths, self.record.model_at(moment))
        except (BrokenPromiseError, RuntimeError, AssertionError) as error:
            return f"{type(error).__name__}: {error}\n{self._seen}"
        return None

    def _check(self, paths: Sequence[Path], model: Model) -> None:
        with ExitStack() as stack:
            devices = [stack.enter_context(attached(path)) for path in paths]
            stack.enter_context(self._host.mounted(devices, self._place))
            self._host.configure(self._made, self._place)
            world = World(self._made, random.Random(0), model)
            (self._made.folder / "ready").unlink(missing_ok=True)
            daemon = Daemon(self._forks, self._made.folder)
            stack.callback(daemon.close)
            stack.callback(self._look)
            daemon.start()
            world.check()

    def _look(self) -> None:
        names = run("ls", "-lR", str(self._place))
        self._seen = f"{names}\n{(self._made.folder / 'log').read_text()}"

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


def main(program: str, host: Host, recorded: Callable[..., Record], base: Path | None) -> int:
    """Records one daemon after another, and cuts each; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("cuts", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--operations", type=int, default=14, help="things that a daemon does for its clients"
    )
    parser.add_argument("--each", type=int, default=200, help="cuts of one record")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="imgstore-cuts-", dir=base))
    began, made, broken = time.monotonic(), 0, 0
    with image_server(folder / "server") as url, Forks() as forks:
        while made < arguments.cuts and not broken:
            run_in = folder / f"run-{seed}"
            record = recorded(host, run_in, url, forks, seed, arguments.operations)
            writes = record.log.writes
            flushes = sum(each.flush for each in writes)
            print(f"seed {seed}: {len(writes)} writes and flushes ({flushes})", flush=True)
            cuts = Cuts(host, run_in / "cuts", url, forks, record)
            count = min(arguments.each, arguments.cuts - made)
            for _, wrong in cuts.run(moments(writes, record.begin, count, random.Random(seed)), seed):
                made += 1
                if wrong is not None:
                    broken += 1
                    print(wrong, flush=True)
                if made % 10 == 0:
                    _report(made, broken, began)
            cuts.close()
            if not broken:
                shutil.rmtree(run_in)
            seed += 1
    _report(made, broken, began)
    if broken:
        print(f"the disks are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(broken))


def _report(made: int, broken: int, began: float) -> None:
    figures = {"cuts": made, "broken": broken, "seconds": round(time.monotonic() - began)}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main("tests.proofs.disk_cuts", Ext4Host(), recorded, Path("/dev/shm")))
