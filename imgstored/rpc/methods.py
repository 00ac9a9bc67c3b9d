"""The socket's methods: docs/protocol.md's table, each row a thin function over the store or the sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from imgstored import __version__
from imgstored.errors import UsageError
from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.params import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgstored.rpc.services import Document, Events, Sources, Store

PROTOCOL_VERSION = 1

#: What a client may rely on beyond version 1's first methods; each is the name of a method.
FEATURES = ("import", "ensure", "install", "delete", "jobs", "watch", "cancel", "sources", "hold")

#: Characters that are kept of what a client calls its file.
MAX_PATH = 1024

T = TypeVar("T")


def methods(store: Store, sources: Sources, *, pool: str) -> Methods:
    """All methods. `pool` is the one that is used where a request names none."""
    return {
        "hello": Method(_with(_hello, pool), ("client", "protocol")),
        "list": Method(_with(_list, store)),
        "get": Method(_with(_get, store), ("uuid", "pool", "recursive")),
        "avail": Method(_with(_avail, sources)),
        "show": Method(_with(_show, store), ("uuid",)),
        "sources.list": Method(_with(_sources_list, sources)),
        "sources.add": Method(
            _with(_sources_add, sources), ("url", "type", "insecure", "force"), change=True
        ),
        "sources.delete": Method(_with(_sources_delete, sources), ("url",), change=True),
        "sources.check": Method(_with(_sources_check, sources)),
        "import": Method(_with(_import, store), ("uuid", "pool", "sources", "channel"), change=True),
        "ensure": Method(_with(_ensure, store), ("uuids", "pool"), change=True),
        "install": Method(_with(_install, store), ("manifest", "pool", "path"), change=True, file=True),
        "delete": Method(_with(_delete, store), ("uuid", "pool"), change=True),
        "hold": Method(_with(_hold, store), ("uuid", "tag", "pool"), change=True),
        "release": Method(_with(_release, store), ("uuid", "tag", "pool"), change=True),
        "holds": Method(_with(_holds, store), ("uuid", "pool")),
        "jobs": Method(_with(_jobs, store)),
        "watch": Method(_with(_watch, store), ("uuid",)),
        "cancel": Method(_with(_cancel, store), ("uuid",), change=True),
    }


def _with(run: Callable[[T, Call], Awaitable[Any]], first: T) -> Callable[[Call], Awaitable[Any]]:
    return lambda call: run(first, call)


async def _hello(pool: str, call: Call) -> Document:
    protocol = call.params.number("protocol")
    if protocol != PROTOCOL_VERSION:
        raise UsageError(
            f"this daemon speaks version {PROTOCOL_VERSION} of the protocol, not {protocol}",
            hint=f"imgstored is version {__version__}; use an imgctl of the same version",
        )
    call.client.introduce(call.params.text("client"))
    return {
        "protocol": PROTOCOL_VERSION,
        "server": "imgstored",
        "version": __version__,
        "pool": pool,
        "features": list(FEATURES),
    }


async def _list(store: Store, call: Call) -> list[Document]:
    return store.installed()


async def _get(store: Store, call: Call) -> Document:
    params = call.params
    return store.image(params.text("uuid"), params.optional_text("pool"), recursive=params.flag("recursive"))


async def _avail(sources: Sources, call: Call) -> Document:
    return await sources.available()


async def _show(store: Store, call: Call) -> Document:
    return await store.show(call.params.text("uuid"))


async def _sources_list(sources: Sources, call: Call) -> list[Document]:
    return sources.listed()


async def _sources_add(sources: Sources, call: Call) -> Document:
    params = call.params
    return await sources.add(
        params.text("url"), params.optional_text("type"), params.flag("insecure"), params.flag("force")
    )


async def _sources_delete(sources: Sources, call: Call) -> Document:
    return await sources.delete(call.params.text("url"))


async def _sources_check(sources: Sources, call: Call) -> list[Document]:
    return await sources.check()


async def _import(store: Store, call: Call) -> Document:
    params = call.params
    uuid = params.text("uuid")
    wish = store.request(
        [uuid],
        client=call.client.name,
        pool=params.optional_text("pool"),
        sources=params.optional_texts("sources"),
        channel=params.optional_text("channel"),
    )
    await _tell(call, wish)
    return {"uuid": uuid}


async def _ensure(store: Store, call: Call) -> Document:
    uuids = call.params.texts("uuids")
    await _tell(call, store.request(uuids, client=call.client.name, pool=call.params.optional_text("pool")))
    return {"uuids": uuids}


async def _install(store: Store, call: Call) -> Document:
    manifest, pool = call.params.mapping("manifest"), call.params.optional_text("pool")
    path = printable(call.params.optional_text("path") or "", MAX_PATH) or "the file"
    fd = call.take_file()
    try:
        await _tell(call, store.install(manifest, fd, client=call.client.name, pool=pool, path=path))
    finally:
        os.close(fd)
    return {"uuid": manifest.get("uuid")}


async def _delete(store: Store, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await store.delete(uuid, call.params.optional_text("pool"))
    return {"uuid": uuid}


async def _hold(store: Store, call: Call) -> Document:
    """Without a tag the hold lasts as long as the request."""
    params = call.params
    uuid, tag, pool = params.text("uuid"), params.optional_text("tag"), params.optional_text("pool")
    if tag is None:
        await _tell(call, store.holding(uuid, pool, client=call.client.name))
    else:
        await store.hold(uuid, tag, pool)
    return {"uuid": uuid, "tag": tag}


async def _release(store: Store, call: Call) -> Document:
    params = call.params
    uuid, tag = params.text("uuid"), params.text("tag")
    await store.release(uuid, tag, params.optional_text("pool"))
    return {"uuid": uuid, "tag": tag}


async def _holds(store: Store, call: Call) -> list[str]:
    return await store.holds(call.params.text("uuid"), call.params.optional_text("pool"))


async def _jobs(store: Store, call: Call) -> list[Document]:
    return store.jobs()


async def _watch(store: Store, call: Call) -> None:
    await _tell(call, store.watch(call.params.optional_text("uuid")))


async def _cancel(store: Store, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await store.cancel(uuid)
    return {"uuid": uuid}


async def _tell(call: Call, events: Events) -> None:
    """Passes on events until there are no more."""
    async with events as coming:
        async for event in coming:
            await call.notify(event.as_wire())
