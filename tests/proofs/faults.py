"""Fails the N-th change of the disk, for every N: `python -m tests.proofs.faults [OPTIONS]`.

A daemon works on a file system (`recording`) of which one call fails, once, with EIO, ENOSPC or EINTR: of an
import, a deletion, a hold, a publication, and SQLite's. The client gets an error that is for people, or what
it asked for; the daemon goes on; and after a restart all promises hold, and nothing is left over.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.proofs.forks import Daemon, Forks
from tests.proofs.kills import drop_copies
from tests.proofs.model import GONE, THERE, BrokenPromiseError, World
from tests.proofs.recording import Mounted, Recorder
from tests.proofs.world import (
    CLONE,
    FIRST,
    LARGE,
    LOWER,
    ORIGINS,
    SMALL,
    UPPER,
    VOLUME,
    image_server,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.proofs.model import Operation
    from tests.proofs.recording import Change

ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EINTR)
#: What clients are told of them.
_WORDS: Final = {
    errno.EIO: ("Input/output error", "disk I/O error"),
    errno.ENOSPC: ("no room", "No space left"),
    errno.EINTR: ("Interrupted system call",),
}
#: What fails: names of operations, and of what.
OPERATIONS: Final = (
    ("import", SMALL),
    ("import", CLONE),
    ("import", LARGE),
    ("import", VOLUME),
    ("import", LOWER),
    ("import", UPPER),
    ("hold", SMALL),
    ("release", SMALL),
    ("publish", FIRST),
    ("unpublish", FIRST),
    ("delete", CLONE),
    ("delete", LARGE),
    ("delete", UPPER),
)
_INVERSE: Final = {
    "import": "delete",
    "delete": "import",
    "hold": "release",
    "release": "hold",
    "publish": "unpublish",
    "unpublish": "publish",
}
#: More changes than any operation makes.
_END: Final = 2000


class Fault:
    """Fails the N-th change from now on, once."""

    def __init__(self, number: int, code: int) -> None:
        self.left = number
        self.code = code
        self.failed: Change | None = None

    def __call__(self, change: Change) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed = change
            raise OSError(self.code, "a fault of the disk")


class Faults:
    """Operations of one daemon after another, on one disk."""

    def __init__(self, folder: Path, url: str, forks: Forks) -> None:
        self.recorder = Recorder()
        self.mounted = Mounted(self.recorder, folder / "disk")
        self._made = settings(folder / "host", url, folder / "disk" / "state")
        self._made.write()
        self.world = World(self._made, random.Random(0))
        self.daemon = Daemon(forks, self._made.folder)
        self.count: collections.Counter[str] = collections.Counter()
        # The kernel may write later, and report the failure at the next sync, once: in these words.
        self._late: tuple[str, ...] = ()
        self.reported_late = 0

    def __enter__(self) -> Faults:
        self.mounted.__enter__()
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.close()
        self.mounted.__exit__(None, None, None)

    def each(self, name: str, uuid: str, code: int, numbers: Iterable[int]) -> None:
        """Fails each of these changes of an operation, until it makes no more of them."""
        for number in numbers:
            if not self.turn(name, uuid, code, number):
                return

    def turn(self, name: str, uuid: str, code: int, number: int) -> bool:
        """One operation of which one change fails. Whether it made so many. Raises `BrokenPromiseError`."""
        operation = self._prepared(name, uuid)
        what = f"{operation}, {errno.errorcode[code]} of change {number}"
        fault = Fault(number, code)
        self.recorder.fault = fault
        self.world.asked(operation)
        try:
            failure = self.world.attempt(operation)
        finally:
            self.recorder.fault = lambda change: None
        what = f"{what} ({fault.failed.call if fault.failed else 'none'})"
        if failure is None:
            self.world.done(operation)
        elif (fault.failed is None and not self._is_late(failure)) or "fault in imgstored" in failure:
            raise BrokenPromiseError(f"{what}: {failure}")
        if self.daemon.died(0):
            raise BrokenPromiseError(f"{what}: the daemon died")
        self._look_at_log(what)
        self.daemon.kill()
        drop_copies(self._made.state)
        self.daemon.start()
        try:
            self.world.check()
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{what}: {error}") from error
        if fault.failed is not None:
            self.count[f"{name} {errno.errorcode[code]}"] += 1
        failed_late = fault.failed is None and failure is not None
        self._late = () if fault.failed is None else _WORDS[code]
        return fault.failed is not None or failed_late

    def _is_late(self, failure: str) -> bool:
        """Whether this is the failure of the fault before, which is reported now; that happens once."""
        late, self._late = any(words in failure for words in self._late), ()
        self.reported_late += late
        return late

    def _look_at_log(self, what: str) -> None:
        text = self.daemon.log.read_text()
        if "Traceback" in text:
            raise BrokenPromiseError(f"{what}: {text[text.index('Traceback') - 500 :][:4000]}")

    def _prepared(self, name: str, uuid: str) -> Operation:
        """The operation, once it makes sense."""
        for _ in range(8):
            there = [each for each in self.world.sensible() if each.uuid == uuid]
            found = next((each for each in there if each.name == name), None)
            if found is not None:
                return found
            self._do(self._before(name, uuid))
        raise AssertionError(f"{name} {uuid} never makes sense")

    def _before(self, name: str, uuid: str) -> Operation:
        """What has to be done first."""
        model = self.world.model
        clone = next((clone for clone, origin in ORIGINS.items() if origin == uuid), None)
        if name == "import" and uuid in model.holds and model.holds[uuid] == THERE:
            wanted = "release", uuid
        elif name == "import" and clone is not None and model.images[clone] == THERE:
            wanted = "delete", clone
        elif name in ("hold", "release") and model.images[uuid] == GONE:
            wanted = "import", uuid
        else:
            wanted = _INVERSE[name], uuid
        return next(each for each in self.world.sensible() if (each.name, each.uuid) == wanted)

    def _do(self, operation: Operation) -> None:
        self.world.asked(operation)
        failure = self.world.attempt(operation)
        if failure is not None and self._is_late(failure):
            self.world.check()
            return
        if failure is not None:
            raise BrokenPromiseError(f"{operation} failed: {failure}")
        self.world.done(operation)


def all_of(
    faults: Faults, codes: Iterable[int] = ERRORS, *, step: int = 1, operations: Sequence[str] = ()
) -> Iterator[str]:
    """Fails each change of each operation with each error, or every `step`-th; says what is done.

    Of the `operations` alone if there are any, as "import 1".
    """
    for name, uuid in OPERATIONS:
        if operations and f"{name} {uuid[-1]}" not in operations:
            continue
        for code in codes:
            faults.each(name, uuid, code, range(1, _END, step))
            yield f"{name} {uuid[-1]} {errno.errorcode[code]}"


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.faults", description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--operation", action="append", default=[], help="as 'import 1'; else all")
    parser.add_argument("--report", type=Path, default=None, help="a JSON file with the figures")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="imgstore-faults-", dir="/dev/shm"))
    began, broken = time.monotonic(), None
    with image_server(folder / "server") as url, Forks() as forks, Faults(folder, url, forks) as faults:
        try:
            for done in all_of(faults, step=arguments.step, operations=arguments.operation):
                print(f"{done}: {sum(faults.count.values())} faults so far", flush=True)
        except BrokenPromiseError as error:
            broken = str(error)
            print(broken)
    if arguments.report is not None:
        seconds = round(time.monotonic() - began)
        figures = {
            "faults": dict(faults.count),
            "reported late": faults.reported_late,
            "seconds": seconds,
            "broken": broken,
        }
        arguments.report.write_text(json.dumps(figures, indent=1) + "\n")
    shutil.rmtree(folder)
    return int(broken is not None)


if __name__ == "__main__":
    sys.exit(main())
