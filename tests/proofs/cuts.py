"""Power cuts of the embedded pool and the state: `python -m tests.proofs.cuts [OPTIONS] N`.

A daemon works on a file system that writes down each change (`recording`). From the record of one such run
the disk is made as a power cut at any moment leaves it: with all that was synced, and some of what was not. A
daemon starts on each; then all that its clients had been told before that moment must hold, all imports end,
and `imgstored --check --deep` finds nothing.

`ordered`: names appear and go on the disk in the order of the calls, as on ext4, XFS and ZFS. `any`: in any
order, as POSIX allows. What is in files comes in any order in both, and parts of it may be missing.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import BrokenPromiseError, Model, World, worked
from tests.proofs.recording import CONTENT, ENTRIES, ROOT, SYNC_ALL, Mounted, Node, Recorder, apply
from tests.proofs.world import image_server, settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.proofs.recording import Change
    from tests.proofs.world import Settings

Order = Literal["ordered", "any"]


@dataclass
class Record:
    """What a daemon did to its disk, and what its clients knew at which moment."""

    changes: list[Change] = field(default_factory=list)
    known: list[tuple[int, Model]] = field(default_factory=list)

    def model_at(self, moment: int) -> Model:
        """What clients knew when so many changes had been made."""
        found = Model()
        for after, model in self.known:
            if after > moment:
                break
            found = model
        return copy.deepcopy(found)


def recorded(folder: Path, url: str, forks: Forks, seed: int, operations: int) -> Record:
    """The record of a daemon that does so many things for its clients, and is killed now and then."""
    dice = random.Random(seed)
    recorder = Recorder()
    record = Record(recorder.changes)
    disk = folder / "disk"
    with Mounted(recorder, disk):
        made = settings(folder / "host", url, disk / "state")
        made.write()
        world = World(made, dice)
        daemon = Daemon(forks, made.folder)
        try:
            daemon.start()
            worked(
                world,
                daemon,
                operations,
                lambda model: record.known.append((len(recorder.changes), model)),
            )
        finally:
            daemon.close()
    return record


# -- what a cut leaves ---------------------------------------------------------------------------------------


def kept(
    changes: Sequence[Change], moment: int, order: Order, share: float, dice: random.Random
) -> list[Change]:
    """The changes that are on the disk when the power is cut after so many of them.

    Of those that were not synced a random `share` is; with `ordered`, names in the order of their changes.
    """
    before = changes[:moment]
    durable = _durable(before)
    names = [place for place, change in enumerate(before) if change.call in ENTRIES]
    if order == "ordered":
        last = max((place for place in names if durable[place]), default=-1)
        waiting = [place for place in names if place > last]
        on_disk = {place for place in names if place <= last}
        count = dice.randint(0, len(waiting)) if 0 < share < 1 else round(share) * len(waiting)
        on_disk.update(waiting[:count])
    else:
        on_disk = {place for place in names if durable[place] or dice.random() < share}
    found = []
    for place, change in enumerate(before):
        if change.call in CONTENT and not durable[place]:
            found += _left(change, share, dice)
        elif place in on_disk or change.call in CONTENT:
            found.append(change)
    return found


def _durable(changes: Sequence[Change]) -> list[bool]:
    """Whether each is followed by a sync of what it changes."""
    synced: set[int] = set()  # as seen from the end
    durable, everything = [], False
    for change in reversed(changes):
        if change.call == "sync":
            synced.add(change.inode)
        everything = everything or change.call == SYNC_ALL
        moved = change.call == "rename" and change.other in synced
        durable.append(everything or moved or change.inode in synced)
    return durable[::-1]


def _left(change: Change, share: float, dice: random.Random) -> list[Change]:
    """What is on the disk of a change of a file that was not synced: all, nothing, or a part of a write."""
    if dice.random() < share:
        return [change]
    torn = change.call == "write" and share > 0 and dice.random() < 0.3
    return [_torn(change, dice)] if torn else []


def _torn(change: Change, dice: random.Random) -> Change:
    """A part of a write, in sectors."""
    sectors = len(change.data) // 512
    if sectors < 2:
        return change
    size = dice.randint(1, sectors - 1) * 512
    return type(change)("write", change.inode, offset=change.offset, data=change.data[:size])


def disk_of(changes: Iterable[Change], record: Iterable[Change]) -> dict[int, Node]:
    """The nodes that these changes of a record make."""
    nodes = {ROOT: Node(stat.S_IFDIR | 0o755)}
    # What is in a file is there whether its first name is or not.
    for change in record:
        if change.call in ("create", "mkdir", "symlink") and change.child not in nodes:
            nodes[change.child] = Node(change.offset, bytearray(change.data), parent=change.inode)
    for change in changes:
        apply(nodes, change)
    return nodes


def fingerprint(nodes: dict[int, Node], inode: int = ROOT) -> bytes:
    """A hash of all that is below a folder: its names and what is in its files."""
    digest = hashlib.blake2b(digest_size=16)
    for name, child in sorted(nodes[inode].entries.items()):
        node = nodes[child]
        digest.update(name + b"\0")
        digest.update(
            fingerprint(nodes, child) if stat.S_ISDIR(node.mode) else hashlib.sha1(node.data).digest()
        )
    return digest.digest()


def write_out(nodes: dict[int, Node], place: Path, inode: int = ROOT) -> None:
    """Writes nodes to a folder, which is made."""
    place.mkdir()
    for name, child in nodes[inode].entries.items():
        node, path = nodes[child], place / name.decode()
        if stat.S_ISDIR(node.mode):
            write_out(nodes, path, child)
        elif stat.S_ISLNK(node.mode):
            path.symlink_to(bytes(node.data).decode())
        else:
            path.write_bytes(node.data)
        if not stat.S_ISLNK(node.mode):
            path.chmod(stat.S_IMODE(node.mode))
        os.utime(path, ns=node.times, follow_symlinks=False)


# -- whether all holds ---------------------------------------------------------------------------------------


class Cuts:
    """Cuts of one record after another."""

    def __init__(self, folder: Path, url: str, forks: Forks, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.cuts = 0
        self.disks = 0  #: different ones, on each of which a daemon was started
        self._url = url
        self._forks = forks
        self._seen: set[bytes] = set()
        self._made: Settings = settings(folder / "after", url)
        self._made.write()

    def run(self, record: Record, cuts: int, number: int) -> None:
        """Cuts a record at so many random moments. Raises `BrokenPromiseError`."""
        for turn in range(cuts):
            self.cut(record, f"{self.seed}-{number}-{turn}")

    def cut(self, record: Record, seed: str) -> None:
        """One cut, all of whose chances come from its seed. Raises `BrokenPromiseError`."""
        dice = random.Random(seed)
        moment = dice.randint(1, len(record.changes))
        order: Order = dice.choice(("ordered", "any"))
        share = dice.choice((0.0, 0.0, 0.3, 0.7, 1.0))
        self.cuts += 1
        nodes = disk_of(kept(record.changes, moment, order, share, dice), record.changes[:moment])
        model = record.model_at(moment)
        mark = hashlib.sha1(fingerprint(nodes) + repr(model).encode()).digest()
        if mark in self._seen:
            return
        self._seen.add(mark)
        self.disks += 1
        try:
            self._check(nodes, model)
        except (BrokenPromiseError, RuntimeError) as error:
            what = f"cut {seed}, at change {moment} of {len(record.changes)}, {order}, {share}"
            raise BrokenPromiseError(f"{what}: {error}") from error

    def _check(self, nodes: dict[int, Node], model: Model) -> None:
        """Starts a daemon on that disk, and looks whether all holds."""
        shutil.rmtree(self._made.state, ignore_errors=True)
        there = nodes[ROOT].entries.get(b"state")
        if there is not None:
            write_out(nodes, self._made.state, there)
        world = World(self._made, random.Random(0), model)
        (self._made.folder / "ready").unlink(missing_ok=True)
        daemon = Daemon(self._forks, self._made.folder)
        try:
            daemon.start()
            world.check()
        finally:
            daemon.close()


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.cuts", description=__doc__)
    parser.add_argument("cuts", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--each", type=int, default=500, help="cuts of one record")
    parser.add_argument("--folder", type=Path, default=None, help="of the disks; by default in /dev/shm")
    parser.add_argument("--report", type=Path, default=None, help="a JSON file with the figures so far")
    parser.add_argument("--go-on", action="store_true", help="after a fault, too, and count the kinds")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    base = arguments.folder or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    folder = Path(tempfile.mkdtemp(prefix="imgstore-cuts-", dir=base))
    began = time.monotonic()
    broken: list[str] = []
    with image_server(folder / "server") as url, Forks() as forks:
        cuts = Cuts(folder, url, forks, seed)
        number = 0
        while cuts.cuts < arguments.cuts and (not broken or arguments.go_on):
            record = recorded(folder / f"run-{number}", url, forks, seed + number, 14)
            for turn in range(min(arguments.each, arguments.cuts - cuts.cuts)):
                try:
                    cuts.cut(record, f"{seed}-{number}-{turn}")
                except BrokenPromiseError as error:
                    broken.append(str(error))
                    print(error, flush=True)
                    if not arguments.go_on:
                        break
                if cuts.cuts % 50 == 0:
                    _report(cuts, broken, began, arguments.report)
            shutil.rmtree(folder / f"run-{number}")
            number += 1
    _report(cuts, broken, began, arguments.report)
    shutil.rmtree(folder)
    return int(bool(broken))


def _report(cuts: Cuts, broken: Sequence[str], began: float, report: Path | None) -> None:
    seconds = round(time.monotonic() - began)
    print(f"{cuts.cuts} cuts, {cuts.disks} different disks, {len(broken)} broken, {seconds} s", flush=True)
    if report is not None:
        figures = {
            "cuts": cuts.cuts,
            "disks": cuts.disks,
            "seed": cuts.seed,
            "seconds": seconds,
            "broken": list(broken[:50]),
        }
        report.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
