"""Budgets: what the connections of one user have of the daemon at the same time, all together.

Without them a user has as much of it as it has connections. Who may change has budgets, too, for the sake of
memory; theirs are wide, and count no requests.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from imgstored.rpc.call import Method

#: Large answers that are made or sent at the same time: for one user who may only read, for all of these, and
#: for one user who may change. One may have tens of MiB.
_LARGE: Final = 2
_ALL_LARGE: Final = 8
_CHANGERS_LARGE: Final = 8
#: Questions that ask image servers, at the same time: of one user who may only read, of one who may change.
_ASKING: Final = 2
#: Requests a second of one user who may only read, refused ones too, and how many at once after a rest.
_RATE: Final = 100.0
_BURST: Final = 256
#: How long such a user rests after a large answer, as a multiple of the time that it took; seconds at most.
_REST: Final = 4.0
_MAX_REST: Final = 2.0
_CHANGERS_ASKING: Final = 32


class Own(Struct, frozen=True):
    """One connection's part of it: one large answer at a time of each kind."""

    large: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    asking: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))


class Budget:
    """One user's. Used in trio's thread."""

    def __init__(self, uid: int, *, changer: bool, all_large: trio.CapacityLimiter) -> None:
        self.uid = uid
        self.changer = changer
        self.connections = 0
        self.requests = 0  #: in flight
        self.watches = 0  #: of these, those that last as long as the client wants
        self._large = trio.CapacityLimiter(_CHANGERS_LARGE if changer else _LARGE)
        self._asking = trio.CapacityLimiter(_CHANGERS_ASKING if changer else _ASKING)
        self._all_large = all_large
        self._due = float("-inf")  # when the last request had its turn, or will have it
        self._rests_until = float("-inf")  # after its last large answer

    async def pace(self) -> None:
        """Waits until the user may send one more request. Nothing is read from the connection meanwhile."""
        if self.changer:
            return
        now = trio.current_time()
        self._due = max(self._due, now - _BURST / _RATE) + 1 / _RATE
        if self._due > now:
            await trio.sleep_until(self._due)

    def begin(self, method: Method | None) -> None:
        """Counts a request."""
        self.requests += 1
        self.watches += method is not None and method.lasting

    def end(self, method: Method | None) -> None:
        """Counts it no longer."""
        self.requests -= 1
        self.watches -= method is not None and method.lasting

    @asynccontextmanager
    async def turn(self, method: Method, params: Mapping[str, Any], own: Own) -> AsyncIterator[None]:
        """Waits until the method may run; the block lasts until its answer is on its way.

        What asks servers waits for others that do, and not for answers that come from here. `own` is the
        connection's part: all take their turns in the same order, its own first.
        """
        limiters: list[trio.CapacityLimiter] = []
        if method.asks(params):
            limiters = [own.asking, self._asking] if method.large else [self._asking]
        elif method.large:
            limiters = [own.large, self._large] if self.changer else [own.large, self._large, self._all_large]
        whose = object()
        taken: list[trio.CapacityLimiter] = []
        try:
            for limiter in limiters:
                await limiter.acquire_on_behalf_of(whose)
                taken.append(limiter)
            began = trio.current_time()
            if method.large and began < self._rests_until:
                await trio.sleep_until(self._rests_until)
                began = self._rests_until
            yield
            if method.large and not self.changer:
                now = trio.current_time()
                self._rests_until = now + min(_MAX_REST, _REST * (now - began))
        finally:
            for limiter in taken:
                limiter.release_on_behalf_of(whose)


class Budgets:
    """Those of all users who are connected."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[int, bool], Budget] = {}
        self._all_large = trio.CapacityLimiter(_ALL_LARGE)

    def of(self, uid: int, *, changer: bool) -> Budget:
        """The user's: one for all connections that have the same rights."""
        found = self._budgets.get((uid, changer))
        return found or Budget(uid, changer=changer, all_large=self._all_large)

    def enter(self, budget: Budget) -> None:
        """Counts a connection."""
        self._budgets[budget.uid, budget.changer] = budget
        budget.connections += 1

    def leave(self, budget: Budget) -> None:
        """Counts it no longer."""
        budget.connections -= 1
        if not budget.connections:
            del self._budgets[budget.uid, budget.changer]
