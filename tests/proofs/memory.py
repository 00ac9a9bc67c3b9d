"""Fails an allocation of memory, whichever: `python -m tests.proofs.memory [OPTIONS] N`.

A daemon imports, deletes, holds, publishes and mirrors. Meanwhile its K-th allocation fails, or some in a
row, Python's and those of all libraries (`no_memory.c`); or the system gives it little more than it has, or
nothing (RLIMIT_AS). The client gets what it asked for or an error that is for people, in bounded time. The
daemon goes on, and does the same thing once there is memory; or it ends, as it may then, and is started
again. After a restart all promises hold. Ends with status 1 at the first fault, and says the seed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.proofs.forks import Daemon, Forks
from tests.proofs.kills import drop_copies
from tests.proofs.model import BrokenPromiseError, Operation, World
from tests.proofs.preloaded import Preloaded
from tests.proofs.world import image_server, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds within which each request is answered, on a busy machine.
_PATIENCE: Final = 90.0
#: Seconds within which a daemon finds out that it must end, and within which it then does.
_DECIDES: Final = 0.3
_ENDS: Final = 30.0
#: What it says then.
_RAN_OUT: Final = "memory ran out"
#: So many allocations fail in a row.
_IN_A_ROW: Final = (1, 1, 1, 1, 2, 10, 100, 1000)
#: So many MiB the system gives a daemon beyond what it has.
_ROOM_MIB: Final = 32
_NEVER: Final = (1 << 64) - 1
_FORM: Final = struct.Struct("=5Q")  # pid, first, last, count, failed
#: The signal on which a daemon of these proofs writes down where its threads are.
_WHERE: Final = signal.SIGRTMIN + 5
#: What clients are told about a mistake of the program.
_MISTAKE: Final = "fault in imgstored"


class Shortage:
    """Fails the allocations of a process, from outside. Built in `folder`; needs a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._preloaded = Preloaded(folder, "no_memory.c", "IMGSTORE_NO_MEMORY", _FORM)

    def environment(self) -> dict[str, str]:
        """What a process, and all that it forks, needs to be in reach."""
        return self._preloaded.environment | {"PYTHONMALLOC": "malloc"}

    def arm(self, pid: int, first: int = _NEVER, number: int = 1) -> None:
        """From now on the process's allocations are counted; from the `first`, so many fail."""
        last = min(_NEVER, first + number - 1)
        self._preloaded.write(pid, first, 0, 0, 0)
        self._preloaded.write(pid, first, last, 0, 0)

    def disarm(self) -> tuple[int, int]:
        """From now on none fails. How many allocations there were, and how many failed."""
        pid, first, _, count, failed = self._preloaded.read()
        self._preloaded.write(pid, first, 0, 0, 0)
        return count, failed

    def close(self) -> None:
        self._preloaded.close()


class Memory:
    """A run on one folder."""

    def __init__(self, folder: Path, url: str, forks: Forks, shortage: Shortage, seed: int) -> None:
        self.dice = random.Random(seed)
        self.shortage = shortage
        made = settings(folder / "host", url)
        config = made.write()
        # A slot that is kept for ever is soon missed.
        config.write_text(config.read_text().replace("[limits]\n", "[limits]\nimports = 2\n"))
        self.world = World(made, self.dice)
        self.daemon = Daemon(forks, made.folder)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()
        self.before = ""  # the log of the daemon before
        self._made: dict[str, int] = {}  # allocations, by operation

    @property
    def count(self) -> int:
        return sum(self.failed.values())

    def __enter__(self) -> Memory:
        self._start()
        return self

    def _start(self) -> None:
        if self.daemon.log.exists():
            self.before = self.daemon.log.read_text()
        self.daemon.start()

    def _ends(self) -> bool:
        """Whether it has decided to end; then it does. Raises `BrokenPromiseError` if it does not."""
        if _RAN_OUT not in self.daemon.log.read_text():
            return False
        if not self._has_ended(_ENDS):
            raise BrokenPromiseError(f"it does not end:\n{self._where()}")
        return True

    def __exit__(self, *_: object) -> None:
        self.shortage.disarm()
        self._kill()
        self.daemon.close()

    def turn(self, *, limited: bool = False) -> None:
        """An operation meanwhile allocations fail, one more without that, and a restart.

        `limited`: what fails is what goes beyond a limit of the process. Raises `BrokenPromiseError`.
        """
        operation = self.world.next()
        what = str(operation)
        if limited:
            room = self.dice.choice((0, self.dice.randint(0, _ROOM_MIB << 10))) << 10
            what = f"{what}, {room >> 10} KiB of memory"
            failure, failed = self._while_limited(operation, room)
        else:
            most = self._made.get(what, 0)
            first = self.dice.randint(1, most) if most else _NEVER
            number = self.dice.choice(_IN_A_ROW)
            what = f"{what}, allocation {first} and {number - 1} more of {most}"
            failure, failed = self._while_failing(operation, first, number)
        try:
            self._judge(operation, failure, failed=failed, name="limit" if limited else operation.name)
        except (BrokenPromiseError, RuntimeError) as error:
            raise BrokenPromiseError(f"{what}: {error}\n{self._logs()}") from error

    def _logs(self) -> str:
        return f"{self.before[-8000:]}\n----\n{self.daemon.log.read_text()[-8000:]}"

    def _while_failing(self, operation: Operation, first: int, number: int) -> tuple[str | None, bool]:
        self.shortage.arm(self.daemon.pid, first, number)
        try:
            failure = self._attempt(operation)
        finally:
            count, failed = self.shortage.disarm()
        name = str(operation)
        if failure is None:
            self._made[name] = max(count, self._made.get(name, 0))
        return failure, failed > 0

    def _while_limited(self, operation: Operation, room: int) -> tuple[str | None, bool]:
        pid = self.daemon.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(
            pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY)
        )
        try:
            failure = self._attempt(operation)
        finally:
            if not self._has_ended(0):
                unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
        return failure, True

    def _attempt(self, operation: Operation) -> str | None:
        """Why the operation failed, or None. Raises `BrokenPromiseError` if it does not end."""
        failures: list[str | None] = []
        self.world.asked(operation)
        thread = threading.Thread(target=lambda: failures.append(self.world.attempt(operation)), daemon=True)
        thread.start()
        thread.join(_PATIENCE)
        if not failures:
            raise BrokenPromiseError(f"{operation} does not end:\n{self._where()}\n{self._logs()}")
        return failures[0]

    def _judge(self, operation: Operation, failure: str | None, *, failed: bool, name: str) -> None:
        if failure is None:
            self.world.done(operation)
        elif not failed:
            raise BrokenPromiseError(f"failed without a cause: {failure}")
        if failed:
            self.failed[name] += 1
        ended = self._has_ended(_DECIDES if failed else 0) or self._ends()
        outcome = "ended" if ended else "done" if failure is None else "refused"
        if failed:
            self.outcomes[outcome] += 1
        if not ended and failure is not None and _MISTAKE in failure:
            raise BrokenPromiseError(failure)
        if ended:
            self._start()
        self._check()
        if failure is not None and not ended:
            self._once_more(operation)
        if failed and not ended and self.dice.random() < 0.5:
            self._kill()
            drop_copies(self.world.settings.state)
            self._start()
            self._check()

    def _once_more(self, operation: Operation) -> None:
        """The same, as there is memory again: it has left no lock and no slot behind."""
        again = next((each for each in self.world.sensible() if str(each) == str(operation)), None)
        if again is None:
            return  # it was done, and its client was not told
        failure = self._attempt(again)
        if failure is not None and self._has_ended(_ENDS):
            self.outcomes["ended late"] += 1
            self._start()
            self._check()
        elif failure is not None:
            raise BrokenPromiseError(f"failed once more, without a cause: {failure}")
        else:
            self.world.done(again)
            self._check()

    def _check(self) -> None:
        """All promises hold, of this daemon or, if it ends meanwhile, the next one."""
        try:
            self._check_once()
        except BrokenPromiseError as error:
            if not self._has_ended(_ENDS):
                raise BrokenPromiseError(f"{error}\n{self._where()}") from error
            self.outcomes["ended late"] += 1
            self._start()
            self._check_once()

    def _check_once(self) -> None:
        """In a thread, since a daemon that hangs answers nothing."""
        errors: list[BaseException] = []
        done = threading.Event()

        def check() -> None:
            try:
                self.world.check()
            except BaseException as error:  # noqa: BLE001  (raised below)
                errors.append(error)
            done.set()

        threading.Thread(target=check, daemon=True).start()
        if not done.wait(3 * _PATIENCE):
            raise BrokenPromiseError(f"the daemon hangs:\n{self._where()}")
        if errors:
            raise BrokenPromiseError(f"{type(errors[0]).__name__}: {errors[0]}")

    def _kill(self) -> None:
        """SIGKILL; it may be about to end by itself, with any status."""
        if not self._has_ended(0):
            os.kill(self.daemon.pid, signal.SIGKILL)
            self.daemon.status(_ENDS)

    def _has_ended(self, seconds: float) -> bool:
        return self.daemon.status(seconds) is not None

    def _where(self) -> str:
        """Where each thread of the daemon is."""
        if self._has_ended(0):
            return f"the daemon ended with {self.daemon.status(0)}"
        before = len(self.daemon.log.read_text())
        os.kill(self.daemon.pid, _WHERE)
        time.sleep(0.5)
        return self.daemon.log.read_text()[before:]


def turns(memory: Memory, number: int, *, limited: Callable[[int], bool]) -> Iterator[int]:
    """Turns until so many had a failure; yields how many had. `limited` says which have a limit instead."""
    turn = 0
    while memory.count < number:
        memory.turn(limited=limited(turn))
        turn += 1
        yield memory.count


def why_not() -> str | None:
    """Why this machine cannot fail allocations; None if it can."""
    if shutil.which("cc") is None:
        return "there is no C compiler, cc"
    if sys.platform != "linux":
        return "LD_PRELOAD and glibc's malloc are Linux's"
    return None


def main() -> int:
    """Returns 1 if a promise was broken, 2 if this machine cannot fail allocations."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.memory", description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--report", type=Path, default=None, help="a JSON file with the figures")
    arguments = parser.parse_args()
    if (reason := why_not()) is not None:
        print(reason)
        return 2
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="imgstore-memory-", dir=base))
    began, broken, said = time.monotonic(), None, 0
    shortage = Shortage(folder)
    with (
        image_server(folder / "server") as url,
        Forks(environment=shortage.environment()) as forks,
        Memory(folder, url, forks, shortage, seed) as memory,
    ):
        try:
            for count in turns(memory, arguments.number, limited=lambda turn: turn % 4 == 3):
                if count // 50 > said:
                    said = count // 50
                    print(f"{count} failures in {time.monotonic() - began:.0f} s", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
        except (BrokenPromiseError, RuntimeError) as error:
            broken = f"{type(error).__name__}: {error}"
    figures = {
        "failures": memory.count,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "outcomes": dict(memory.outcomes),
        "at": dict(sorted(memory.failed.items())),
        "broken": broken,
    }
    shortage.close()
    print(json.dumps({key: value for key, value in figures.items() if key != "broken"}))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(figures, indent=1) + "\n")
    if broken is not None:
        print(f"broken, seed {seed}, folder {folder}: {broken}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
