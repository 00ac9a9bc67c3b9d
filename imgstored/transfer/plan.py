"""Which ranges to ask for next, from whom, and when to give up. Pure: no I/O, no clock, no chance of its own.

A file is cut into ranges of equal size, numbered from its start. `RangePlan.next` hands out one after
another, front first, to whoever has a free connection; what became of each comes back with `answered`, and
one of `finished`, `failed` and `dropped`. Times are seconds of any one clock that the caller reads.

A mirror's state says how many requests it gets at a time:

| state    | at a time                      | a 206 makes it | a 200 makes it |
| -------- | ------------------------------ | -------------- | -------------- |
| unproven | 1                              | ranges         | whole          |
| ranges   | as many as it seems to bear    | ranges         | whole          |
| whole    | 1: it sends the file as a whole| ranges         | whole          |

It is given up after `tries` failures in a row, or one that would only repeat itself. One mirror is asked at a
time: the first that has proven itself, until it is given up. While none has, one that rests is passed over.
So a file comes from several mirrors only when one of them failed, and a bad file can be laid at its door.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from imgstored.http.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

MIN_RANGE = 1 << 20
MAX_RANGE = 16 << 20

#: How many ranges a file is cut into, where that gives ranges within the bounds.
_PIECES = 64

#: A range is slow when it takes this many times as long as ranges took so far, and this long at least
#: (seconds).
_SLOW_FACTOR = 2.0
_SLOW_SECONDS = 2.0

#: This many ranges in a row for each connection allow a mirror that refused connections one more.
_PATIENCE = 2


def range_size_for(size: int) -> int:
    """Bytes of a range for a file of `size` bytes: a power of two from 1 to 16 MiB, about a 64th of it."""
    wanted = max(MIN_RANGE, min(MAX_RANGE, size // _PIECES))
    return 1 << (wanted.bit_length() - 1)


def range_count(size: int, range_size: int) -> int:
    """How many ranges a file has; an empty one has none."""
    return -(-size // range_size)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to make: the range `index` from `mirror`. A hedge asks a second time for a slow range."""

    number: int
    mirror: int
    index: int
    since: float
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or until `seconds` have passed."""

    seconds: float | None = None


#: Every range is there; no mirror is left.
Ended = Literal["complete", "exhausted"]


@dataclass(slots=True)
class _Mirror:
    allowed: int  #: requests at a time, in the state `ranges`
    state: Literal["unproven", "ranges", "whole"] = "unproven"
    failures: int = 0
    successes: int = 0  #: ranges since the last change of `allowed`
    rests_until: float = float("-inf")
    last_fault: str = ""
    given_up: bool = False
    running: set[int] = field(default_factory=set)

    @property
    def capacity(self) -> int:
        return self.allowed if self.state == "ranges" else 1


class RangePlan:
    """The plan for one file. Used by one thread."""

    def __init__(
        self,
        ranges: int,
        *,
        done: Set[int] = frozenset(),
        mirrors: int,
        connections: int,
        tries: int,
        random: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        """`ranges` may be 1 for a file of unknown size, and grow later. `random` gives values in [0, 1)."""
        self._ranges = ranges
        self._done = set(done)
        self._connections = connections
        self._tries = tries
        self._random = random
        self._backoff = backoff or Backoff()
        self._mirrors = [_Mirror(allowed=connections) for _ in range(mirrors)]
        self._todo = [index for index in range(ranges) if index not in self._done]  # a heap: front first
        self._running: dict[int, Ask] = {}
        self._hedged: set[int] = set()
        self._numbers = 0
        self._durations = (0, 0.0)  # count and sum, of finished ranges

    # -- what to do ------------------------------------------------------------------------------------------

    def next(self, now: float) -> Ask | Wait | Ended:
        """What a free connection does now."""
        if len(self._done) >= self._ranges:
            return "complete"
        place = self._choice(now)
        if place is None:
            return Wait() if self._running else "exhausted"
        mirror = self._mirrors[place]
        if now < mirror.rests_until:
            return Wait(mirror.rests_until - now)
        if len(mirror.running) >= mirror.capacity:
            return Wait()
        while self._todo:
            index = heapq.heappop(self._todo)
            if index not in self._done:
                return self._ask(place, index, now)
        return self._hedge(place, now) if mirror.state == "ranges" else Wait()

    def _choice(self, now: float) -> int | None:
        """The mirror to ask, or to wait for; None if all are given up."""
        left = [place for place, mirror in enumerate(self._mirrors) if not mirror.given_up]
        proven = [place for place in left if self._mirrors[place].state != "unproven"]
        if proven or not left:
            return proven[0] if proven else None
        rests = [max(now, self._mirrors[place].rests_until) for place in left]
        return left[rests.index(min(rests))]

    def _ask(self, place: int, index: int, now: float, *, hedge: bool = False) -> Ask:
        self._numbers += 1
        ask = Ask(self._numbers, place, index, now, hedge)
        self._running[ask.number] = ask
        self._mirrors[place].running.add(ask.number)
        return ask

    def _hedge(self, place: int, now: float) -> Ask | Wait:
        """A second request for the slowest range, once a range; else how long until one counts as slow."""
        candidates = [ask for ask in self._running.values() if ask.index not in self._hedged]
        if not candidates:
            return Wait()
        oldest = min(candidates, key=lambda ask: ask.since)
        left = oldest.since + self._slow_after() - now
        if left > 0:
            return Wait(left)
        self._hedged.add(oldest.index)
        return self._ask(place, oldest.index, now, hedge=True)

    def _slow_after(self) -> float:
        count, total = self._durations
        return max(_SLOW_SECONDS, _SLOW_FACTOR * total / count) if count else _SLOW_SECONDS

    # -- what became of it -----------------------------------------------------------------------------------

    def answered(self, ask: Ask, *, partial: bool) -> bool:
        """The head of an answer came: 206 if `partial`, 200 if not. False: the body is not wanted.

        The whole file is wanted only while nothing else is asked of that mirror. A refused one counts as
        failed.
        """
        mirror = self._mirrors[ask.mirror]
        mirror.state = "ranges" if partial else "whole"
        return partial or len(mirror.running) == 1

    def finished(self, ask: Ask, now: float, *, done: Iterable[int]) -> list[Ask]:
        """A request ended well; `done` are ranges that it brought. Returns requests that it made needless.

        If its own is not among `done`, it is handed out again: its end was not known when it was asked for.
        """
        brought = frozenset(done)
        self._done |= brought
        self._give_back(ask)
        mirror = self._mirrors[ask.mirror]
        mirror.failures = 0
        mirror.successes += 1
        if mirror.allowed < self._connections and mirror.successes >= _PATIENCE * mirror.allowed:
            mirror.allowed, mirror.successes = mirror.allowed + 1, 0
        count, total = self._durations
        self._durations = (count + 1, total + now - ask.since)
        return [other for other in self._running.values() if other.index in brought]

    def failed(
        self,
        ask: Ask,
        now: float,
        fault: str,
        *,
        done: Iterable[int] = (),
        lasting: bool = False,
        progressed: bool = False,
        retry_after: float | None = None,
    ) -> float | None:
        """A request failed; `done` are ranges that it brought first. Returns how long its mirror rests.

        `progressed`: it brought enough to be worth its trouble. None means that the mirror is given up. While
        others to the same mirror run, a failure costs it only one connection: it may not bear so many.
        """
        self._done.update(done)
        self._give_back(ask)
        mirror = self._mirrors[ask.mirror]
        mirror.last_fault = fault
        mirror.successes = 0
        if mirror.running and not lasting:
            mirror.allowed = max(1, len(mirror.running))
            return 0.0
        mirror.failures = 1 if progressed else mirror.failures + 1
        if lasting or mirror.failures >= self._tries:
            mirror.given_up = True
            return None
        delay = self._backoff.delay(mirror.failures, self._random, retry_after)
        mirror.rests_until = now + delay
        return delay

    def dropped(self, ask: Ask) -> None:
        """A request was ended because it was not needed any more."""
        self._give_back(ask)

    def grow(self, ranges: int, done: Set[int] = frozenset()) -> None:
        """The file's size became known, and so the number of its ranges."""
        taken = {ask.index for ask in self._running.values()}
        self._ranges = ranges
        self._done = set(done)
        self._todo = [index for index in range(ranges) if index not in self._done | taken]

    def begin_anew(self) -> None:
        """Nothing that was fetched counts any more."""
        self.grow(self._ranges)
        self._hedged.clear()

    def _give_back(self, ask: Ask) -> None:
        self._end(ask)
        elsewhere = any(other.index == ask.index for other in self._running.values())
        if ask.index not in self._done and ask.index not in self._todo and not elsewhere:
            heapq.heappush(self._todo, ask.index)

    def _end(self, ask: Ask) -> None:
        del self._running[ask.number]
        self._mirrors[ask.mirror].running.discard(ask.number)

    # -- how it stands ---------------------------------------------------------------------------------------

    def busy(self, mirror: int) -> int:
        """Requests to the mirror that are under way."""
        return len(self._mirrors[mirror].running)

    def given_up(self, mirror: int) -> bool:
        """Whether the mirror will not be asked again."""
        return self._mirrors[mirror].given_up

    def faults(self) -> list[str]:
        """The last fault of every mirror that had one, in order."""
        return [mirror.last_fault for mirror in self._mirrors if mirror.last_fault]
