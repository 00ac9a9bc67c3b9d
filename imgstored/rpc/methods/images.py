"""What is installed, and what the sources have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Images, Sources


def image_methods(images: Images, sources: Sources) -> Methods:
    """`list`, `get`, `ancestry`, `avail`, `show`, `delete`."""
    return {
        "list": Method(bound(_list, images), ("holds",)),
        "get": Method(bound(_get, images), ("uuid", "pool", "recursive")),
        "ancestry": Method(bound(_ancestry, images), ("uuid", "pool")),
        "avail": Method(bound(_avail, sources)),
        "show": Method(bound(_show, sources), ("uuid",)),
        "delete": Method(bound(_delete, images), ("uuid", "pool"), change=True),
    }


async def _list(images: Images, call: Call) -> list[Document]:
    return await images.installed(holds=call.params.flag("holds"))


async def _get(images: Images, call: Call) -> Document:
    params = call.params
    return await images.image(
        params.text("uuid"), params.optional_text("pool"), recursive=params.flag("recursive")
    )


async def _ancestry(images: Images, call: Call) -> list[Document]:
    return await images.ancestry(call.params.text("uuid"), call.params.optional_text("pool"))


async def _avail(sources: Sources, call: Call) -> Document:
    return await sources.available()


async def _show(sources: Sources, call: Call) -> Document:
    return await sources.show(call.params.text("uuid"))


async def _delete(images: Images, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await images.delete(uuid, call.params.optional_text("pool"), call.requester)
    return {"uuid": uuid}
