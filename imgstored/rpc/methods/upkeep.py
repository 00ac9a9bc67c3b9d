"""What keeps the installed images in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound, tell

if TYPE_CHECKING:
    from imgstored.events.notifications import Event
    from imgstored.rpc.services import Document, Upkeep


def upkeep_methods(upkeep: Upkeep) -> Methods:
    """`update`, `vacuum`."""
    return {
        "update": Method(bound(_update, upkeep), ("uuids", "dry_run"), change=True),
        "vacuum": Method(bound(_vacuum, upkeep), ("older_than", "keep")),
    }


async def _update(upkeep: Upkeep, call: Call) -> Document:
    uuids = call.params.optional_texts("uuids") or []
    await tell(call, upkeep.update(uuids, dry_run=call.params.flag("dry_run")))
    return {"uuids": uuids}


async def _vacuum(upkeep: Upkeep, call: Call) -> list[Document]:
    params = call.params

    async def notify(event: Event) -> None:
        await call.notify(event.as_wire())

    return await upkeep.vacuum(
        older_than=params.optional_number("older_than"),
        keep=params.optional_number("keep") or 0,
        tell=notify,
    )
