"""Decides which range to request next, from whom, and when to give up. Pure: no I/O, clock or chance.

Theory of operation
-------------------

A file is cut into ranges of equal size, numbered from its start. `RangePlan.next` hands out one after
another, the lowest number first, to any free connection. What became of each comes back with `answered`, and
then one of `finished`, `failed`, `differs` and `dropped`. Times are seconds of any one clock that the caller
reads.

**How a mirror serves.** A mirror's state says how many requests it gets at a time:

| state    | at a time                       | a 206 makes it | a 200 makes it |
| -------- | ------------------------------- | -------------- | -------------- |
| unproven | 1                               | ranges         | whole          |
| ranges   | as many as it seems to bear     | ranges         | whole          |
| whole    | 1: it sends the file as a whole | ranges         | whole          |
| given up | 0                               | given up       | given up       |

A mirror is given up after `tries` failures in a row, or after one that would only repeat itself. A mirror
that has proven itself (a 206 or a 200 about the right file) gets more time: it may refuse because there are
too many requests, or one of its back-ends may lack the file. So its refusals count like other failures; only
a file of another size ends it at once.

The plan asks one mirror at a time: the first that has proven itself, until it is given up. While none has,
the plan passes over those that rest. So a file comes from several mirrors only when one of them failed, and a
bad file can be laid at its door.

**Without ranges.** Some servers refuse a request because of its Range header, or answer it with a 206 that
does not say what it has, or close the connection. Then the request without a Range header decides
(`Ask.plain`): at once after a refusal by an unproven mirror, after the second unusable 206 in a row, as the
last try with an unproven mirror, and where a proven mirror would be given up because of refusals. From then
on the mirror gets no Range header. It is given up when it refuses such a request, too.

**Whether it is still the same file.** All ranges must be of one file. A mirror shows in three ways that it
has another one than before: its validator (ETag or date) differs; bytes differ that the consumer has not read
yet; bytes differ that the consumer has read. `differs` decides by the file's state and the mirror's record:

| file       | mirror's record | validator        | unread bytes     | read bytes |
| ---------- | --------------- | ---------------- | ---------------- | ---------- |
| sound      | steady          | restart, changed | restart, changed | spoiled    |
| sound      | changed         | go on, fickle    | restart, fickle  | spoiled    |
| sound      | fickle          | go on            | restart          | spoiled    |
| restarting | any             | go on            | go on            | go on      |
| spoiled    | any             | go on            | go on            | go on      |

- *restart*: the file is restarting. All requests under way are needless, and nothing is handed out until the
  last of them has ended. Then `begin_anew` makes the file sound: every range is fetched again, and compared
  with what the consumer has read. The mirror rests as after a failure; `tries` changes give it up.
- *go on*: only the request is dropped. Either another request found the change first, or the mirror is
  fickle: it has several validators for one file, as back-ends behind one name do. The plan then ignores them
  (`trusts_validators`), and the image's checksum decides.
- *spoiled*: the download ends. What the consumer has read belongs to no file that still exists.

A mirror whose file has another size (`failed` with `other_size`) is given up at once. If the size was stated
nowhere else, nobody knows which of the mirrors is right. `reusable` says whether what has come serves a
later download.

**Needless requests.** A range may be asked for twice (a hedge). When it has come, the other request is
needless, and so are all requests under way at a restart. The caller ends them; their failure counts for
nothing.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from imgstored.http.failures import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Set

MIN_RANGE = 1 << 20
MAX_RANGE = 16 << 20
#: The least of a file in a registry: distribution reads at least so much for each request, and takes some
#: milliseconds of processor time for it, so that smaller ranges cost as much and bring less.
MIN_RANGE_OF_BLOBS = 4 << 20

#: How many ranges a file is cut into, where that gives ranges within the bounds.
_PIECES = 64

#: Ranges begin at multiples of it: a page of memory, and of most disks.
_ALIGNMENT = 4096

#: A range is slow when it takes this many times as long as ranges took so far, and this long at least
#: (seconds).
_SLOW_FACTOR = 2.0
_SLOW_SECONDS = 2.0

#: After this many unusable 206s in a row the whole file is asked for.
_UNUSABLE = 2

#: This many ranges in a row for each connection allow a mirror that refused connections one more.
_SUCCESSES = 2


def range_size_for(size: int, least: int = MIN_RANGE, connections: int = 1) -> int:
    """Bytes of a range for a file of `size` bytes: a power of two up to 16 MiB, about a 64th of it, or less.

    Less, where several connections then end at the same time: in the last round of ranges each has one. But
    never less than `least`, which is a power of two, too.
    """
    most: int = 1 << (max(least, min(MAX_RANGE, size // _PIECES)).bit_length() - 1)
    if connections == 1:
        return most
    rounds = max(1, range_count(size, most * connections))
    even = range_count(size, rounds * connections * _ALIGNMENT) * _ALIGNMENT
    return even if least <= even <= most else most


def range_count(size: int, range_size: int) -> int:
    """The number of ranges of a file; an empty one has none."""
    return -(-size // range_size)


class Ask(Struct, frozen=True):
    """One request to make: the range `index` from `mirror`.

    A plain one has no Range header: it brings the whole file.
    """

    number: int
    mirror: int
    index: int
    since: float
    plain: bool = False


class Wait(Struct, frozen=True):
    """Nothing to do until something changes, or until `seconds` have passed."""

    seconds: float | None = None


#: Every range is there; no mirror is left.
Ended = Literal["complete", "exhausted"]

#: Whether all ranges are of one file.
FileState = Literal["sound", "restarting", "spoiled"]

#: How a mirror shows that its file is another one than before.
Sign = Literal["validator", "unread bytes", "read bytes"]

#: How often a mirror's file was another one: never, once, several times.
Record = Literal["steady", "changed", "fickle"]
_RECORDS: tuple[Record, ...] = ("steady", "changed", "fickle")


class Restart(Struct, frozen=True):
    """All of the file is to be fetched again, once the requests under way have ended."""

    needless: list[Ask]  #: the requests under way
    rests: float | None  #: seconds that the mirror rests; None: it is given up


#: What a sign does to a sound file. In the file's other states, all goes on.
_RULE: Mapping[tuple[Record, Sign], Literal["restart", "go on", "spoiled"]] = {
    ("steady", "validator"): "restart",
    ("changed", "validator"): "go on",
    ("fickle", "validator"): "go on",
    ("steady", "unread bytes"): "restart",
    ("changed", "unread bytes"): "restart",
    ("fickle", "unread bytes"): "restart",
    ("steady", "read bytes"): "spoiled",
    ("changed", "read bytes"): "spoiled",
    ("fickle", "read bytes"): "spoiled",
}


class MirrorState(Struct):
    """The plan's knowledge of one mirror."""

    allowed: int  #: requests at a time, in the state `ranges`
    state: Literal["unproven", "ranges", "whole", "given up"] = "unproven"
    plain: bool = False  #: it is asked without Range headers
    failures: int = 0
    successes: int = 0  #: ranges since the last change of `allowed`
    changes: int = 0  #: how often its file was another one; validators that are ignored do not count
    rests_until: float = float("-inf")
    last_fault: str = ""
    running: set[int] = field(default_factory=set)

    @property
    def capacity(self) -> int:
        """Requests that it gets at a time, unless it is given up."""
        return self.allowed if self.state == "ranges" and not self.plain else 1

    @property
    def proven(self) -> bool:
        """True if it has answered with a part of the right file, or with all of it."""
        return self.state in ("ranges", "whole")

    @property
    def record(self) -> Record:
        """True if its file stays the same."""
        return _RECORDS[min(self.changes, len(_RECORDS) - 1)]


class RangePlan:
    """The plan for one file. One thread changes it."""

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
        size_stated: bool = True,
    ) -> None:
        """`ranges` may be 1 for a file of unknown size, and grow later. `random` gives values in [0, 1).

        `size_stated`: somebody other than the mirrors says how large the file is.
        """
        self.file: FileState = "sound"
        self.mirrors = [MirrorState(allowed=connections) for _ in range(mirrors)]
        self._ranges = ranges
        self._done = set(done)
        self._connections = connections
        self._tries = tries
        self._random = random
        self._backoff = backoff or Backoff()
        self._size_stated = size_stated
        self._sizes_disputed = False
        self._todo = [index for index in range(ranges) if index not in self._done]  # a heap: front first
        self._running: dict[int, Ask] = {}
        self._hedged: set[int] = set()
        self._needless: set[int] = set()  # numbers of requests under way
        self._whole: set[int] = set()  # likewise
        self._numbers = 0
        self._durations = (0, 0.0)  # count and sum, of finished ranges

    # -- what to do ------------------------------------------------------------------------------------------

    def next(self, now: float) -> Ask | Wait | Ended:
        """The next step of a free connection."""
        if self.file != "sound":
            return Wait()
        if len(self._done) >= self._ranges:
            return "complete"
        place = self._choice(now)
        if place is None:
            return Wait() if self._running else "exhausted"
        mirror = self.mirrors[place]
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
        left = [place for place, mirror in enumerate(self.mirrors) if mirror.state != "given up"]
        proven = [place for place in left if self.mirrors[place].state != "unproven"]
        if proven or not left:
            return proven[0] if proven else None
        rests = [max(now, self.mirrors[place].rests_until) for place in left]
        return left[rests.index(min(rests))]

    def _ask(self, place: int, index: int, now: float) -> Ask:
        self._numbers += 1
        ask = Ask(self._numbers, place, index, now, self.mirrors[place].plain)
        self._running[ask.number] = ask
        self.mirrors[place].running.add(ask.number)
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
        return self._ask(place, oldest.index, now)

    def _slow_after(self) -> float:
        count, total = self._durations
        return max(_SLOW_SECONDS, _SLOW_FACTOR * total / count) if count else _SLOW_SECONDS

    # -- what became of it -----------------------------------------------------------------------------------

    def answered(self, ask: Ask, *, partial: bool) -> bool:
        """The head of an answer came: 206 if `partial`, 200 if not. False: the body is not wanted.

        The whole file is wanted only while nothing else is asked of that mirror. A refused one counts as
        failed.
        """
        mirror = self.mirrors[ask.mirror]
        if mirror.state != "given up":
            mirror.state = "ranges" if partial else "whole"
        wanted = partial or len(mirror.running) == 1
        if wanted and not partial:
            self._whole.add(ask.number)
        return wanted

    def finished(self, ask: Ask, now: float, *, done: Iterable[int]) -> list[Ask]:
        """A request ended well; `done` are ranges that it brought. Returns requests that it made needless.

        If its own is not among `done`, it is handed out again: its end was not known when it was asked for.
        """
        brought = frozenset(done)
        self._done |= brought
        self._give_back(ask)
        mirror = self.mirrors[ask.mirror]
        mirror.failures = 0
        mirror.successes += 1
        if mirror.allowed < self._connections and mirror.successes >= _SUCCESSES * mirror.allowed:
            mirror.allowed, mirror.successes = mirror.allowed + 1, 0
        count, total = self._durations
        self._durations = (count + 1, total + now - ask.since)
        return self._make_needless(other for other in self._running.values() if other.index in brought)

    def failed(
        self,
        ask: Ask,
        now: float,
        fault: str,
        *,
        done: Iterable[int] = (),
        lasting: bool = False,
        other_size: bool = False,
        ranges: bool = False,
        progressed: bool = False,
        retry_after: float | None = None,
    ) -> float | None:
        """A request failed; `done` are ranges that it brought first. Returns how long its mirror rests.

        `progressed`: it brought enough to be worth its trouble. `other_size`: the mirror's file is larger or
        smaller, and its ranges count for nothing. `ranges`: the Range header may be the reason. None means
        that the mirror is given up. While others to the same mirror run, a failure costs it only one
        connection: it may not bear so many. A needless request costs it nothing.
        """
        if ask.number in self._needless:
            self._give_back(ask)
            return 0.0
        if other_size:
            # A file that is too long has all ranges, and still is another one.
            self._sizes_disputed = True
        else:
            self._done.update(done)
        mirror = self.mirrors[ask.mirror]
        if ranges and lasting and not mirror.proven and not ask.plain:
            self._give_back(ask)
            mirror.last_fault, mirror.plain = fault, True
            return 0.0
        if ask.plain and mirror.state != "whole":
            final = lasting or other_size or ranges
        else:
            final = other_size or (lasting and not mirror.proven)
        patience = self._tries if lasting else min(_UNUSABLE, self._tries)
        if not ranges and not mirror.proven and self._tries > 1:
            ranges, patience = True, self._tries - 1
        return self._count(
            ask,
            now,
            fault,
            final=final,
            progressed=progressed,
            retry_after=retry_after,
            plain_after=patience if ranges and not mirror.plain else None,
        )

    def _count(
        self,
        ask: Ask,
        now: float,
        fault: str,
        *,
        final: bool,
        progressed: bool,
        retry_after: float | None = None,
        plain_after: int | None = None,
    ) -> float | None:
        """Counts a failure; returns how long the mirror rests, None if it is given up.

        After `plain_after` failures in a row, the mirror is asked without Range headers instead.
        """
        self._give_back(ask)
        mirror = self.mirrors[ask.mirror]
        mirror.last_fault = fault
        mirror.successes = 0
        if mirror.running and not final:
            mirror.allowed = max(1, len(mirror.running))
            return 0.0
        mirror.failures = 1 if progressed else mirror.failures + 1
        if plain_after is not None and mirror.failures >= plain_after and not final:
            mirror.plain = True
            mirror.failures = min(mirror.failures, self._tries - 1)
        if final or mirror.failures >= self._tries:
            mirror.state = "given up"
            return None
        delay = self._backoff.delay(mirror.failures, self._random, retry_after)
        mirror.rests_until = now + delay
        return delay

    def differs(
        self, ask: Ask, now: float, fault: str, sign: Sign, *, progressed: bool = False
    ) -> Restart | Literal["go on", "spoiled"]:
        """A request showed that its mirror has another file than before: see the table above.

        `progressed` is as of `failed`.
        """
        mirror = self.mirrors[ask.mirror]
        rule = _RULE[mirror.record, sign] if self.file == "sound" else "go on"
        if self.file == "sound" and (mirror.record, sign) != ("fickle", "validator"):
            mirror.changes += 1
        if rule == "restart":
            # A request that was needless was so for the file that is given up.
            self._needless.discard(ask.number)
            final = mirror.changes >= self._tries
            rests = self._count(ask, now, fault, final=final, progressed=progressed)
            self.file = "restarting"
            return Restart(self._make_needless(self._running.values()), rests)
        self._give_back(ask)
        if rule == "spoiled":
            self.file = "spoiled"
        return rule

    def dropped(self, ask: Ask) -> None:
        """A request ended for a reason that is not its mirror's."""
        self._give_back(ask)

    def grow(self, ranges: int) -> None:
        """The file's size became known, and so the number of its ranges."""
        taken = {ask.index for ask in self._running.values()}
        self._ranges = ranges
        self._done = set()
        self._todo = [index for index in range(ranges) if index not in taken]

    def begin_anew(self) -> None:
        """Nothing that was fetched counts any more, and the file is sound."""
        self.grow(self._ranges)
        self._hedged.clear()
        self.file = "sound"

    def _make_needless(self, asks: Iterable[Ask]) -> list[Ask]:
        needless = list(asks)
        self._needless.update(ask.number for ask in needless)
        return needless

    def _give_back(self, ask: Ask) -> None:
        self._end(ask)
        elsewhere = any(other.index == ask.index for other in self._running.values())
        if ask.index not in self._done and ask.index not in self._todo and not elsewhere:
            heapq.heappush(self._todo, ask.index)

    def _end(self, ask: Ask) -> None:
        del self._running[ask.number]
        self.mirrors[ask.mirror].running.discard(ask.number)
        self._needless.discard(ask.number)
        self._whole.discard(ask.number)

    # -- how it stands ---------------------------------------------------------------------------------------

    @property
    def restart_due(self) -> bool:
        """True if the last request before a restart has ended, so that `begin_anew` may be called."""
        return self.file == "restarting" and not self._running

    @property
    def reusable(self) -> bool:
        """True if what has come serves a later download."""
        return self.file != "spoiled" and (self._size_stated or not self._sizes_disputed)

    def brings_whole(self, ask: Ask) -> bool:
        """True if the answer to a request under way is all of the file."""
        return ask.number in self._whole

    def trusts_validators(self, mirror: int) -> bool:
        """True if the mirror's validators name its file's state. For any thread."""
        return self.mirrors[mirror].record != "fickle"

    def faults(self) -> list[str]:
        """The last fault of every mirror that had one, in order."""
        return [mirror.last_fault for mirror in self.mirrors if mirror.last_fault]
