"""A wall clock that jumps, of daemons that are forked (`forks`), while the machine's own goes on."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tests.proofs.forks import Daemon
from tests.proofs.model import BrokenPromiseError, World
from tests.proofs.preloaded import Preloaded
from tests.proofs.world import settings

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.proofs.forks import Forks

HOUR: Final = 3600
YEAR: Final = 365 * 24 * HOUR
#: Where the clock jumps to: seconds from the machine's. A host without a battery begins in 1970.
PLACES: Final = (0, -HOUR, HOUR, -YEAR, YEAR, -10 * YEAR, 10 * YEAR, -56 * YEAR)
_FORM: Final = struct.Struct("=q")


class Clock:
    """The clock, built in `folder`; needs a C compiler, and Linux."""

    def __init__(self, folder: Path) -> None:
        self._preloaded = Preloaded(folder, "clock.c", "IMGSTORE_CLOCK", _FORM)

    def environment(self) -> dict[str, str]:
        """What a process, and all that it forks, needs to have this clock."""
        return self._preloaded.environment

    def move(self, seconds: int) -> None:
        """From now on the clock is that far from the machine's."""
        self._preloaded.write(seconds)

    def close(self) -> None:
        self._preloaded.close()


class Jumps:
    """A daemon whose clock jumps while it works, and between two daemons."""

    def __init__(self, folder: Path, url: str, forks: Forks, clock: Clock, dice: random.Random) -> None:
        self.clock = clock
        self.dice = dice
        made = settings(folder / "host", url)
        made.write()
        self.world = World(made, dice)
        self.daemon = Daemon(forks, made.folder)

    def __enter__(self) -> Jumps:
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.close()

    def turn(self) -> None:
        """Jumps, does something, jumps, and may be a new daemon. Raises `BrokenPromiseError`."""
        places = [self.dice.choice(PLACES) for _ in range(2)]
        self.clock.move(places[0])
        operation = self.world.next()
        self.world.asked(operation)
        failure = self.world.attempt(operation)
        if failure is not None:
            raise BrokenPromiseError(f"{operation} at {places[0]}: {failure}")
        self.world.done(operation)
        again = self.dice.choice((None, self.daemon.kill, self.daemon.stop))
        if again is not None:
            again()
        self.clock.move(places[1])
        if again is not None:
            self.daemon.start()
        try:
            self.world.check()
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{operation} at {places[0]}, then {places[1]}: {error}") from error
        if "Traceback" in (said := self.daemon.log.read_text()):
            raise BrokenPromiseError(said)
