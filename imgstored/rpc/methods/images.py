"""What is installed, and what the sources have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Sources, Store


def image_methods(store: Store, sources: Sources) -> Methods:
    """`list`, `get`, `ancestry`, `avail`, `show`, `delete`."""
    return {
        "list": Method(bound(_list, store), ("holds",)),
        "get": Method(bound(_get, store), ("uuid", "pool", "recursive")),
        "ancestry": Method(bound(_ancestry, store), ("uuid", "pool")),
        "avail": Method(bound(_avail, sources)),
        "show": Method(bound(_show, store), ("uuid",)),
        "delete": Method(bound(_delete, store), ("uuid", "pool"), change=True),
    }


async def _list(store: Store, call: Call) -> list[Document]:
    return await store.installed(holds=call.params.flag("holds"))


async def _get(store: Store, call: Call) -> Document:
    params = call.params
    return await store.image(
        params.text("uuid"), params.optional_text("pool"), recursive=params.flag("recursive")
    )


async def _ancestry(store: Store, call: Call) -> list[Document]:
    return await store.ancestry(call.params.text("uuid"), call.params.optional_text("pool"))


async def _avail(sources: Sources, call: Call) -> Document:
    return await sources.available()


async def _show(store: Store, call: Call) -> Document:
    return await store.show(call.params.text("uuid"))


async def _delete(store: Store, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await store.delete(uuid, call.params.optional_text("pool"))
    return {"uuid": uuid}
