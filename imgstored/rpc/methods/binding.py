"""What the methods' functions have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgstored.rpc.call import Call
    from imgstored.rpc.services import Events

T = TypeVar("T")


def bound(run: Callable[[T, Call], Awaitable[Any]], first: T) -> Callable[[Call], Awaitable[Any]]:
    """The function with what it works on."""
    return lambda call: run(first, call)


async def tell(call: Call, events: Events) -> None:
    """Passes on events until there are no more."""
    async with events as coming:
        async for event in coming:
            await call.notify(event.as_wire())
