"""What is being installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound, tell
from imgstored.rpc.params import printable

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Imports

#: Characters that are kept of what a client calls its file.
MAX_PATH = 1024


def import_methods(imports: Imports) -> Methods:
    """`import`, `ensure`, `install`, `jobs`, `watch`, `cancel`."""
    return {
        "import": Method(
            bound(_import, imports), ("uuid", "pool", "sources", "channel", "zstream"), change=True
        ),
        "ensure": Method(bound(_ensure, imports), ("uuids", "pool"), change=True),
        "install": Method(bound(_install, imports), ("manifest", "pool", "path"), change=True, file=True),
        "jobs": Method(bound(_jobs, imports)),
        "watch": Method(bound(_watch, imports), ("uuid",)),
        "cancel": Method(bound(_cancel, imports), ("uuid",), change=True),
    }


async def _import(imports: Imports, call: Call) -> Document:
    params = call.params
    uuid = params.text("uuid")
    events = imports.request(
        [uuid],
        requester=call.requester,
        pool=params.optional_text("pool"),
        sources=params.optional_texts("sources"),
        channel=params.optional_text("channel"),
        zstream=params.flag("zstream"),
    )
    await tell(call, events)
    return {"uuid": uuid}


async def _ensure(imports: Imports, call: Call) -> Document:
    uuids = call.params.texts("uuids")
    await tell(call, imports.request(uuids, requester=call.requester, pool=call.params.optional_text("pool")))
    return {"uuids": uuids}


async def _install(imports: Imports, call: Call) -> Document:
    manifest, pool = call.params.mapping("manifest"), call.params.optional_text("pool")
    path = printable(call.params.optional_text("path") or "", MAX_PATH) or "the file"
    fd = call.take_file()
    try:
        await tell(call, imports.install(manifest, fd, requester=call.requester, pool=pool, path=path))
    finally:
        os.close(fd)
    return {"uuid": manifest.get("uuid")}


async def _jobs(imports: Imports, call: Call) -> list[Document]:
    return imports.jobs()


async def _watch(imports: Imports, call: Call) -> None:
    await tell(call, imports.watch(call.params.optional_text("uuid")))


async def _cancel(imports: Imports, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await imports.cancel(uuid)
    return {"uuid": uuid}
