"""The socket's methods: docs/protocol.md's table, each row a thin function over the store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from imgstored import __version__
from imgstored.errors import UsageError
from imgstored.rpc.call import Call, Method, Methods
from imgstored.store.events import Event

PROTOCOL_VERSION = 1

#: What a client may rely on beyond version 1's first methods; each is the name of a method.
FEATURES = ("import", "ensure", "install", "delete", "jobs", "watch", "cancel", "sources")

T = TypeVar("T")

Document = dict[str, Any]
#: The events of a request, as long as somebody listens; leaving the block ends the interest.
Events = AbstractAsyncContextManager[AsyncIterable[Event]]


class Store(Protocol):
    """What the socket needs of the store. All raise `ImgstoreError`; docs/protocol.md has the documents."""

    def installed(self) -> list[Document]:
        """All *images*, ordered."""
        ...

    def image(self, uuid: str, pool: str | None, *, recursive: bool) -> Document:
        """One *image*; with its children when recursive."""
        ...

    async def available(self) -> Document:
        """What the sources have, and which of them did not answer."""
        ...

    async def show(self, uuid: str) -> Document:
        """A manifest from the sources."""
        ...

    def sources_list(self) -> list[Document]:
        """The configured sources, in order."""
        ...

    async def sources_add(self, url: str, kind: str | None, insecure: bool, force: bool, /) -> Document:
        """Adds a source; `force` adds it although it does not answer."""
        ...

    async def sources_delete(self, url: str) -> Document:
        """Removes the sources with this URL."""
        ...

    async def sources_check(self) -> list[Document]:
        """Asks every source whether it is there."""
        ...

    def request(
        self,
        uuids: Sequence[str],
        *,
        client: str,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> Events:
        """Wants images installed; the events end when all are."""
        ...

    def install(
        self, manifest: Mapping[str, Any], fd: int, *, client: str, pool: str | None = None
    ) -> Events:
        """Wants an image installed from an open file.

        `fd` is closed when the block ends; a store that reads on after that has a duplicate of its own.
        """
        ...

    async def delete(self, uuid: str, pool: str | None) -> None:
        """Removes an installed image."""
        ...

    def jobs(self) -> list[Document]:
        """What is under way."""
        ...

    def watch(self, uuid: str | None) -> Events:
        """What happens to all imports, or to one until it has ended."""
        ...

    async def cancel(self, uuid: str) -> None:
        """Ends an import, whoever wants it."""
        ...


def methods(store: Store, *, pool: str) -> Methods:
    """All methods over one store. `pool` is the one that is used where a request names none."""
    return {
        "hello": Method(_with(_hello, pool), ("client", "protocol")),
        "list": Method(_with(_list, store)),
        "get": Method(_with(_get, store), ("uuid", "pool", "recursive")),
        "avail": Method(_with(_avail, store)),
        "show": Method(_with(_show, store), ("uuid",)),
        "sources.list": Method(_with(_sources_list, store)),
        "sources.add": Method(_with(_sources_add, store), ("url", "type", "insecure", "force"), change=True),
        "sources.delete": Method(_with(_sources_delete, store), ("url",), change=True),
        "sources.check": Method(_with(_sources_check, store)),
        "import": Method(_with(_import, store), ("uuid", "pool", "sources", "channel"), change=True),
        "ensure": Method(_with(_ensure, store), ("uuids", "pool"), change=True),
        "install": Method(_with(_install, store), ("manifest", "pool"), change=True, file=True),
        "delete": Method(_with(_delete, store), ("uuid", "pool"), change=True),
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


async def _avail(store: Store, call: Call) -> Document:
    return await store.available()


async def _show(store: Store, call: Call) -> Document:
    return await store.show(call.params.text("uuid"))


async def _sources_list(store: Store, call: Call) -> list[Document]:
    return store.sources_list()


async def _sources_add(store: Store, call: Call) -> Document:
    params = call.params
    return await store.sources_add(
        params.text("url"), params.optional_text("type"), params.flag("insecure"), params.flag("force")
    )


async def _sources_delete(store: Store, call: Call) -> Document:
    return await store.sources_delete(call.params.text("url"))


async def _sources_check(store: Store, call: Call) -> list[Document]:
    return await store.sources_check()


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
    fd = call.take_file()
    try:
        await _tell(call, store.install(manifest, fd, client=call.client.name, pool=pool))
    finally:
        os.close(fd)
    return {"uuid": manifest.get("uuid")}


async def _delete(store: Store, call: Call) -> Document:
    uuid = call.params.text("uuid")
    await store.delete(uuid, call.params.optional_text("pool"))
    return {"uuid": uuid}


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
