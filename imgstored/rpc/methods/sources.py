"""Which image sources there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.http.location import public
from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from imgstored.rpc.services import Document, Sources


def source_methods(sources: Sources) -> Methods:
    """`sources.list`, `sources.add`, `sources.delete`, `sources.set`, `sources.check`, `sources.known`."""
    return {
        "sources.list": Method(bound(_sources_list, sources)),
        "sources.add": Method(
            bound(_sources_add, sources), ("url", "type", "insecure", "force"), change=True
        ),
        "sources.delete": Method(bound(_sources_delete, sources), ("url",), change=True),
        "sources.set": Method(bound(_sources_set, sources), ("sources", "before", "force"), change=True),
        "sources.check": Method(bound(_sources_check, sources)),
        "sources.known": Method(bound(_sources_known, sources)),
    }


async def _sources_list(sources: Sources, call: Call) -> list[Document]:
    if call.access.may_change(call.peer):
        return sources.listed()
    # What is in a URL beside the channel may be a secret; who may read need not know it.
    return [{**source, "url": public(source["url"])} for source in sources.listed()]


async def _sources_add(sources: Sources, call: Call) -> Document:
    params = call.params
    return await sources.add(
        params.text("url"), params.optional_text("type"), params.flag("insecure"), params.flag("force")
    )


async def _sources_delete(sources: Sources, call: Call) -> Document:
    return await sources.delete(call.params.text("url"))


async def _sources_set(sources: Sources, call: Call) -> Document:
    params = call.params
    given, before = params.mappings("sources"), params.mappings("before")
    return await sources.replace(given, before=before, force=params.flag("force"))


async def _sources_check(sources: Sources, call: Call) -> list[Document]:
    return await sources.check()


async def _sources_known(sources: Sources, call: Call) -> list[Document]:
    return await sources.known()
