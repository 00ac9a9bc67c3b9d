"""What keeps images from being deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound, tell

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Images


def hold_methods(images: Images) -> Methods:
    """`hold`, `release`, `holds`."""
    return {
        "hold": Method(bound(_hold, images), ("uuid", "tag", "pool"), change=True),
        "release": Method(bound(_release, images), ("uuid", "tag", "pool"), change=True),
        "holds": Method(bound(_holds, images), ("uuid", "pool")),
    }


async def _hold(images: Images, call: Call) -> Document:
    """Without a tag the hold lasts as long as the request."""
    params = call.params
    uuid, tag, pool = params.text("uuid"), params.optional_text("tag"), params.optional_text("pool")
    if tag is None:
        await tell(call, images.holding(uuid, pool, client=call.client.name))
    else:
        await images.hold(uuid, tag, pool)
    return {"uuid": uuid, "tag": tag}


async def _release(images: Images, call: Call) -> Document:
    params = call.params
    uuid, tag = params.text("uuid"), params.text("tag")
    await images.release(uuid, tag, params.optional_text("pool"))
    return {"uuid": uuid, "tag": tag}


async def _holds(images: Images, call: Call) -> list[str]:
    return await images.holds(call.params.text("uuid"), call.params.optional_text("pool"))
