"""What keeps the host from having its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from imgstored.rpc.services import Document


class Doctor(Protocol):
    """Looks at the host as the daemon sees it."""

    async def examine(self) -> Document:
        """What it found: docs/protocol.md's *findings*."""
        ...


def doctor_methods(doctor: Doctor) -> Methods:
    """`doctor`. It asks every source, and tells of the host: not for those who may only read."""
    return {"doctor": Method(bound(_examine, doctor), change=True)}


async def _examine(doctor: Doctor, call: Call) -> Document:
    return await doctor.examine()
