"""kill -9 at named points and at random moments, again and again: `python -m tests.proofs.kills [OPTIONS] N`.

One daemon after another works on one state folder, and dies. After each start all that clients were told must
hold, all imports end, and `imgstored --check --deep` finds nothing. Ends with status 1 at the first fault,
and says the seed, and where the folder is.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgctl.errors import NotConnectedError

from tests.proofs.fail_points import BY_DELTA, POINTS, REACHED, SYSCALL, Armed
from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import BrokenPromiseError, Model, Operation, World
from tests.proofs.world import IMAGES, LARGE, NEXT, image_server, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.proofs.world import Settings

#: Seconds that an operation may take on a busy machine.
_PATIENCE = 120.0
#: A kill at a random moment comes within so many seconds after the request, or within the time that such an
#: operation takes here.
_MOMENT = 0.12


class Kills:
    """A run on one folder. `write` writes the configuration; `points` are those to die at.

    The part `serving` of the daemons are image servers; the others import by deltas. `also` looks for more
    that does not hold when all imports have ended, and raises `BrokenPromiseError`.
    """

    def __init__(
        self,
        made: Settings,
        forks: Forks,
        seed: int,
        *,
        write: Callable[..., object] | None = None,
        points: Collection[str] = tuple(POINTS),
        serving: float = 0.6,
        also: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.armed = Armed(made.folder / "armed")
        self.points = points
        self.world = World(made, self.dice)
        self._write = write or made.write
        self._serving = serving
        self._also = also
        self.daemon = Daemon(forks, made.folder, armed=self.armed.path)
        self.kills: collections.Counter[str] = collections.Counter()
        self.missed = 0
        # How many times an operation came to a point, as far as is known.
        self._times: dict[str, dict[str, int]] = collections.defaultdict(lambda: {SYSCALL: 60})
        self._seconds: dict[str, float] = collections.defaultdict(lambda: _MOMENT)  # by operation

    @property
    def count(self) -> int:
        return sum(self.kills.values())

    def begin(self) -> None:
        self._start()

    def close(self) -> None:
        self.daemon.close()
        self.armed.close()

    def turn(self, operation: Operation | None = None, point: str | None = None, count: int = 1) -> bool:
        """Asks for something, and kills the daemon meanwhile; then all must hold. Whether it was killed."""
        operation = operation or self.world.next()
        if point is None:
            point, count = self._chosen(operation.name)
        if point:
            self.armed.at(point, count)
        failure, killed = self._asked(operation, point)
        if failure is None:
            self.world.done(operation)
        elif not killed:
            raise BrokenPromiseError(f"{operation} failed: {failure}")
        if killed:
            self.kills[point or "any moment"] += 1
            self._start_again()
        else:
            self.missed += 1
            if self.missed % 10 and operation.name != "leave":
                return False  # nothing has happened that is not seen after the next kill
        try:
            self._check()
        except BrokenPromiseError as error:
            raise BrokenPromiseError(
                f"{operation}, killed at {point or 'any moment'} {count}: {error}"
            ) from error
        return killed

    def _asked(self, operation: Operation, point: str) -> tuple[str | None, bool]:
        """Asks for something until the daemon dies, or it has ended; why it failed, and whether it died."""
        failures: list[str | None] = []
        self.world.asked(operation)
        thread = threading.Thread(target=lambda: failures.append(self.world.attempt(operation)))
        began = time.monotonic()
        thread.start()
        if point:
            killed = self._killed_at_a_point(thread, failures)
        else:
            killed = self._killed_at_any_moment(operation.name, thread)
        took = time.monotonic() - began
        thread.join(_PATIENCE)
        if operation.name == "leave" and not killed:
            killed = self.daemon.died(0.3)  # what it tidies up when the client is gone
        passed = self.armed.passed()
        self.armed.at("")
        killed = killed or self.daemon.died(0.01)
        if not failures:
            raise BrokenPromiseError(f"{operation} does not end ({point})")
        if not killed:
            self._seconds[operation.name] += 0.2 * (took - self._seconds[operation.name])
        if point:
            times, place = self._times[operation.name], point.partition(":")[2]
            times[place] = max(times.get(place, 0), passed) if killed else passed
        return failures[0], killed

    def _start_again(self) -> None:
        if self.dice.random() < 0.5:
            drop_copies(self.world.settings.state)
        self._start()

    def _start(self) -> None:
        self.world.serves = self.dice.random() < self._serving
        self._write(serves=self.world.serves)
        self.daemon.start()

    def _check(self) -> None:
        """Looks whether all holds. It may only now be seen that the daemon died after all."""
        try:
            self.world.check()
        except NotConnectedError:
            if not self.daemon.died(10):
                raise
            self.kills["unseen"] += 1
            self.daemon.start()
            self.world.check()
        self._also(self.world.model)

    def _chosen(self, name: str) -> tuple[str, int]:
        """Where to die in an operation of that name; "" is at any moment.

        Mostly where such an operation has come before, or should come and nothing has died yet.
        """
        kind = self.dice.random()
        side = self.dice.choice(("before", "after"))
        if kind < 0.4:
            known = sorted(each for each, times in self._times[name].items() if times and each != SYSCALL)
            new = [each for each in self._points_of(name) if f"{side}:{each}" not in self.kills]
            if new and self.dice.random() < 0.5:
                return f"{side}:{self.dice.choice(new)}", 1
            learned = len(known) > 2 and self.dice.random() < 0.8
            point = self.dice.choice(known if learned else list(self.points))
            return f"{side}:{point}", self.dice.choice((1, self._some(name, point)))
        if kind < 0.75:
            return f"{side}:{SYSCALL}", self._some(name, SYSCALL)
        return "", 0

    def _some(self, name: str, point: str) -> int:
        """One of the times that such an operation comes to a point, or one more."""
        times = self._times[name].get(point, 0)
        return self.dice.randint(1, max(1, times + self.dice.choice((0, 0, 0, 1, times // 4))))

    def _points_of(self, name: str) -> list[str]:
        """The points that an operation of that name comes to."""
        return [point for point in REACHED.get(name, ()) if point in self.points]

    def _killed_at_any_moment(self, name: str, thread: threading.Thread) -> bool:
        thread.join(self.dice.uniform(0, max(_MOMENT, self._seconds[name])))
        self.daemon.kill()
        return True

    def _killed_at_a_point(self, thread: threading.Thread, failures: list[str | None]) -> bool:
        """Whether it dies before the request has ended, or right after."""
        deadline = time.monotonic() + _PATIENCE
        while thread.is_alive() and time.monotonic() < deadline:
            if self.daemon.died(0.005):
                return True
        thread.join(_PATIENCE)
        # A client may hear of its death before its parent does.
        return self.daemon.died(10 if failures and failures[0] else 0.005)


def drop_copies(state: Path) -> None:
    """Each import fetches its image anew, instead of taking the library's file. No daemon may be running."""
    for uuid in IMAGES:
        shutil.rmtree(state / "library" / uuid, ignore_errors=True)


def each_point(kills: Kills, turns: int = 1000) -> set[str]:
    """Dies at each point but those of deltas, before and after.

    Returns the points that no operation came to in so many turns.
    """
    left = {f"{side}:{name}" for name in POINTS if name not in BY_DELTA for side in ("before", "after")}

    def here(operation: Operation) -> list[str]:
        return sorted(point for point in left if point.partition(":")[2] in REACHED.get(operation.name, ()))

    while left and (turns := turns - 1):
        sensible = kills.world.sensible()
        # Operations with points that are left may need another one first.
        useful = [each for each in sensible if here(each)] if kills.dice.random() < 0.8 else []
        operation = kills.dice.choice(useful or sensible)
        point = kills.dice.choice(here(operation) or ["before:nothing"])
        if kills.turn(operation, point):
            left.discard(point)
    return left


def each_point_of_a_delta(kills: Kills) -> set[str]:
    """Dies at each point of an import by delta, before and after; returns those that it did not come to.

    No image may be held, and the daemon serves nothing.
    """
    left = {f"{side}:{name}" for name in BY_DELTA for side in ("before", "after")}
    for point in sorted(left):
        while not (upgrade := [each for each in kills.world.sensible() if each.name == "upgrade"]):
            steps = (("import", LARGE), ("delete", NEXT))
            kills.turn(
                next(each for each in kills.world.sensible() if (each.name, each.uuid) in steps),
                "before:nothing",
            )
        if kills.turn(upgrade[0], point):
            left.discard(point)
    return left


def campaign(kills: Kills, count: int, report: Path | None = None, *, every: int = 100) -> int:
    """Kills so many times; returns 1 if a promise was broken, and says which. `report` gets the figures."""
    began, fault = time.monotonic(), None
    try:
        kills.begin()
        while kills.count < count:
            if kills.turn() and kills.count % every == 0:
                _report(kills, began, report)
    except (BrokenPromiseError, RuntimeError) as error:
        fault = f"{type(error).__name__}: {error}"
    finally:
        kills.close()
    _report(kills, began, report, fault)
    if fault is not None:
        where = kills.world.settings.folder
        print(f"broken after {kills.count} kills, seed {kills.seed}, folder {where}: {fault}")
    return int(fault is not None)


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.kills", description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the state is; /dev/shm, if there is one"
    )
    parser.add_argument("--report", type=Path, default=None, help="a JSON file with the figures so far")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    base = arguments.folder or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    folder = Path(tempfile.mkdtemp(prefix="imgstore-kills-", dir=base))
    with image_server(folder / "server") as url, Forks() as forks:
        kills = Kills(settings(folder / "host", url), forks, seed)
        status = campaign(kills, arguments.kills, arguments.report)
    if not status:
        shutil.rmtree(folder)
    return status


def _report(kills: Kills, began: float, report: Path | None, fault: str | None = None) -> None:
    seconds = time.monotonic() - began
    figures = {
        "kills": kills.count,
        "seed": kills.seed,
        "seconds": round(seconds),
        "missed": kills.missed,
        "broken": fault,
        "at": dict(sorted(kills.kills.items())),
    }
    print(f"{kills.count} kills in {seconds:.0f} s, {kills.missed} turns without one", flush=True)
    if report is not None:
        report.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
