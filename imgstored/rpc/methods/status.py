"""How the daemon is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from imgstored.rpc.services import Document


class Status(Protocol):
    """A look at everything."""

    async def status(self) -> Document:
        """The *status*."""
        ...


def status_methods(status: Status) -> Methods:
    """`status`."""
    return {"status": Method(bound(_status, status))}


async def _status(status: Status, call: Call) -> Document:
    return await status.status()
