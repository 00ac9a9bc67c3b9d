"""Name look-ups: each lane has threads of its own for them, and one look-up answers all who ask the same."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from msgspec import Struct, field

from imgstored import lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class _Flight(Struct, eq=False):
    """A look-up under way."""

    ended: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: Exception | None = None


class Lookups(trio.abc.HostnameResolver):
    """Asks the system's resolver, which nobody can interrupt, for all of `trio.socket`.

    A name server that does not answer keeps one thread for each name and lane, however many ask, and however
    often: who gives up leaves the look-up to those who ask next.
    """

    def __init__(self, ask: Callable[..., Any] = socket.getaddrinfo) -> None:
        self._ask = ask
        self._flights: dict[Hashable, _Flight] = {}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  trio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`."""
        found: list[Any] = await self._shared(self._ask, host, port, family, type, proto, flags)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """As `socket.getnameinfo`."""
        return await self._shared(socket.getnameinfo, sockaddr, flags)

    async def _shared(self, ask: Callable[..., T], *question: Any) -> T:
        key = (lanes.current(), ask, question)
        if key not in self._flights:
            limiter, flight = lanes.lookups(), _Flight()
            await limiter.acquire_on_behalf_of(flight)
            if key in self._flights:  # somebody else was faster
                limiter.release_on_behalf_of(flight)
            else:
                try:
                    self._start(key, flight, limiter, partial(ask, *question))
                except BaseException:  # there is no thread for it
                    limiter.release_on_behalf_of(flight)
                    raise
        flight = self._flights[key]
        await flight.ended.wait()
        if flight.error is not None:
            # Each its own: a traceback would grow with everybody who raises it.
            raise type(flight.error)(*flight.error.args)
        found: T = flight.result
        return found

    def _start(
        self, key: Hashable, flight: _Flight, limiter: trio.CapacityLimiter, ask: Callable[[], Any]
    ) -> None:
        token = trio.lowlevel.current_trio_token()

        def work() -> None:
            try:
                flight.result = ask()
            except Exception as error:  # noqa: BLE001  who asked gets it
                flight.error = error

        def end() -> None:
            del self._flights[key]
            limiter.release_on_behalf_of(flight)
            flight.ended.set()

        def deliver(_: object) -> None:
            with suppress(trio.RunFinishedError):  # the daemon has ended meanwhile
                token.run_sync_soon(end)

        trio.lowlevel.start_thread_soon(work, deliver, name="name look-up")
        # Not before: nobody may wait for a thread that could not be started.
        self._flights[key] = flight
