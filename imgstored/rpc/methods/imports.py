"""What is being installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound, tell
from imgstored.rpc.params import printable

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Store

#: Characters that are kept of what a client calls its file.
MAX_PATH = 1024


def import_methods(store: Store) -> Methods:
    """`import`, `ensure`, `install`, `jobs`, `watch`, `cancel`."""
    return {
        "import": Method(
            bound(_import, store), ("uuid", "pool", "sources", "channel", "zstream"), change=True
        ),
        "ensure": Method(bound(_ensure, store), ("uuids", "pool"), change=True),
        "install": Method(bound(_install, store), ("manifest", "pool", "path"), change=True, file=True),
        "jobs": Method(bound(_jobs, store)),
        "watch": Method(bound(_watch, store), ("uuid",)),
        "cancel": Method(bound(_cancel, store), ("uuid",), change=True),
    }


async def _import(store: Store, call: Call) -> Document:
    params = call.params
    uuid = params.text("uuid")
    wish = store.request(
        [uuid],
        client=call.client.name,
        pool=params.optional_text("pool"),
        sources=params.optional_texts("sources"),
        channel=params.optional_text("channel"),
        zstream=params.flag("zstream"),
    )
    await tell(call, wish)
    return {"uuid": uuid}


async def _ensure(store: Store, call: Call) -> Document:
    uuids = call.params.texts("uuids")
    await tell(call, store.request(uuids, client=call.client.name, pool=call.params.optional_text("pool")))
    return {"uuids": uuids}


async def _install(store: Store, call: Call) -> Document:
    manifest, pool = call.params.mapping("manifest"), call.params.optional_text("pool")
    path = printable(call.params.optional_text("path") or "", MAX_PATH) or "the file"
    fd = call.take_file()
    try:
        await tell(call, store.install(manifest, fd, client=call.client.name, pool=pool, path=path))
    finally:
        os.close(fd)
    return {"uuid": manifest.get("uuid")}


async def _jobs(store: Store, call: Call) -> list[Document]:
    return store.jobs()


async def _watch(store: Store, call: Call) -> None:
    await tell(call, store.watch(call.params.optional_text("uuid")))


async def _cancel(store: Store, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await store.cancel(uuid)
    return {"uuid": uuid}
