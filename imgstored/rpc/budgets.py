"""Budgets: the share of the daemon that all connections of one user may use at the same time.

Without budgets a user would get a share for each connection. Users who may change have budgets, too, to bound
memory; these are wide, and do not count requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from imgstored.rpc.call import Method

#: Large answers that are made or sent at the same time: for one user who may only read, for all such users,
#: and for one user who may change. An answer may have tens of MiB.
_LARGE: Final = 2
_ALL_LARGE: Final = 8
_CHANGERS_LARGE: Final = 8
#: Requests at the same time that ask image servers: of one user who may only read, of one who may change.
_ASKING: Final = 2
_CHANGERS_ASKING: Final = 32
#: Requests per second of one user who may only read, including refused ones, and the burst after a rest.
_RATE: Final = 100.0
_BURST: Final = 256
#: The rest of such a user after a large answer, as a multiple of the time that the answer took; and its
#: maximum in seconds.
_REST: Final = 4.0
_MAX_REST: Final = 2.0

#: Connections per second of one user who may only read, and the burst after a rest. A connection costs some
#: milliseconds; to turn one away costs a fiftieth of that.
_CONNECTS: Final = 50.0
_CONNECTS_BURST: Final = 256
#: Users whose last connections are remembered, at least.
_REMEMBERED: Final = 1000


class Own(Struct, frozen=True):
    """One connection's part of the budget: one large answer of each kind at a time."""

    large: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    asking: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))


class Budget:
    """The budget of one user. Used in trio's thread."""

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
        """Counts the end of a request."""
        self.requests -= 1
        self.watches -= method is not None and method.lasting

    def turn(self, method: Method | None, own: Own) -> Turn:
        """The turn of one request; `own` is the part of its connection."""
        return Turn(self, method, own)

    def asking_limiters(self, own: Own, *, large: bool) -> list[trio.CapacityLimiter]:
        """The limiters of a method that asks servers, in the order in which it takes them."""
        return [own.asking, self._asking] if large else [self._asking]

    def large_limiters(self, own: Own) -> list[trio.CapacityLimiter]:
        """The limiters of a large answer, in the order in which it takes them, after the others."""
        return [own.large, self._large] if self.changer else [own.large, self._large, self._all_large]

    async def rest(self) -> None:
        """Waits until the rest after the last large answer is over."""
        await trio.sleep_until(self._rests_until)

    def rest_after(self, seconds: float) -> None:
        """Begins the rest after a large answer that took `seconds`."""
        if not self.changer:
            until = trio.current_time() + min(_MAX_REST, _REST * seconds)
            self._rests_until = max(self._rests_until, until)


class Turn:
    """A request's turn: `begin` before the method runs, `send` before a large answer is encoded.

    The end of the block, when the answer is on its way or nobody wants it, gives back what these took. A
    method that asks servers waits for other such methods, and not for answers from the daemon's own memory.
    It waits for the place of a large answer only after it has asked, so a slow server takes no place from
    others.
    """

    def __init__(self, budget: Budget, method: Method | None, own: Own) -> None:
        self._budget = budget
        self._own = own
        self._method = method
        self._large = method is not None and method.large
        self._asks = False
        self._taken: list[trio.CapacityLimiter] = []
        self._began: float | None = None

    async def begin(self, params: Mapping[str, Any]) -> None:
        """Waits until the method may run with these parameters."""
        self._asks = self._method is not None and self._method.asks(params)
        if self._asks:
            await self._take(self._budget.asking_limiters(self._own, large=self._large))
        elif self._large:
            await self._take(self._budget.large_limiters(self._own))
        if self._large:
            await self._budget.rest()
            self._began = trio.current_time()

    async def send(self) -> None:
        """Waits until a large answer may be encoded and sent."""
        if not self._asks:
            return  # `begin` has taken the place
        since = trio.current_time()
        await self._take(self._budget.large_limiters(self._own))
        if self._began is not None:
            self._began += trio.current_time() - since

    async def _take(self, limiters: list[trio.CapacityLimiter]) -> None:
        for limiter in limiters:
            await limiter.acquire_on_behalf_of(self)
            self._taken.append(limiter)

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A client that leaves early has cost as much.
        if self._began is not None:
            self._budget.rest_after(trio.current_time() - self._began)
        for limiter in self._taken:
            limiter.release_on_behalf_of(self)


class ConnectionRates:
    """Bounds how often each user who may only read connects. Used in trio's thread."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}  # by uid

    def may_connect(self, uid: int) -> bool:
        """True if the user may connect once more now; counts it if so."""
        now = trio.current_time()
        due = max(self._due.get(uid, float("-inf")), now - _CONNECTS_BURST / _CONNECTS) + 1 / _CONNECTS
        if due > now:
            return False
        self._due[uid] = due
        if len(self._due) > 2 * _REMEMBERED:
            rested = now - _CONNECTS_BURST / _CONNECTS
            self._due = {each: due for each, due in self._due.items() if due > rested}
        return True


class Budgets:
    """The budgets of all connected users."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[int, bool], Budget] = {}
        self._all_large = trio.CapacityLimiter(_ALL_LARGE)

    def of(self, uid: int, *, changer: bool) -> Budget:
        """The budget of a user, one for all connections with the same rights."""
        found = self._budgets.get((uid, changer))
        return found or Budget(uid, changer=changer, all_large=self._all_large)

    def enter(self, budget: Budget) -> None:
        """Counts a connection."""
        self._budgets[budget.uid, budget.changer] = budget
        budget.connections += 1

    def leave(self, budget: Budget) -> None:
        """Counts the end of a connection."""
        budget.connections -= 1
        if not budget.connections:
            del self._budgets[budget.uid, budget.changer]
