"""Methods for the image sources and their images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproto import operations as op

from imgstored.http.location import public
from imgstored.http.secrets import Disclosed
from imgstored.rpc.call import always
from imgstored.rpc.methods.bound import method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import (
        AddedDocument,
        AvailableDocument,
        CheckedSourceDocument,
        DeletedSourcesDocument,
        EditedSourcesDocument,
        KnownDocument,
        ManifestDocument,
        SourceDocument,
    )
    from imgproto.params import AddSourceParams, ImageParams, NoParams, SetSourcesParams, UrlParams

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`avail`, `show`, and those that begin with `sources.`."""
    yield method(services, op.AVAIL, _available, large=True, asks=always)
    yield method(services, op.SHOW, _show, asks=always)
    yield method(services, op.SOURCES_LIST, _list)
    yield method(services, op.SOURCES_ADD, _add)
    yield method(services, op.SOURCES_DELETE, _delete)
    yield method(services, op.SOURCES_SET, _set)
    yield method(services, op.SOURCES_CHECK, _check, asks=always)
    yield method(services, op.SOURCES_KNOWN, _known, large=True)


async def _available(services: Services, _: NoParams, call: Call) -> AvailableDocument:
    return await services.sources.available()


async def _show(services: Services, params: ImageParams, call: Call) -> ManifestDocument:
    return await services.sources.show(params["uuid"])


async def _list(services: Services, _: NoParams, call: Call) -> list[SourceDocument]:
    return _disclosed(call, await services.sources.listed())


def _disclosed(call: Call, sources: list[SourceDocument]) -> list[SourceDocument]:
    """The sources as the client may see them: a URL's query, except the channel, may be a secret."""
    disclose = Disclosed if call.is_root else public
    return [{**source, "url": disclose(source["url"])} for source in sources]


async def _add(services: Services, params: AddSourceParams, call: Call) -> AddedDocument:
    done = await services.sources.add(
        params["url"], params.get("type"), bool(params.get("insecure")), bool(params.get("force"))
    )
    return {**done, "source": _disclosed(call, [done["source"]])[0]}


async def _delete(services: Services, params: UrlParams, call: Call) -> DeletedSourcesDocument:
    done = await services.sources.delete(params["url"])
    return {"deleted": _disclosed(call, done["deleted"])}


async def _set(services: Services, params: SetSourcesParams, call: Call) -> EditedSourcesDocument:
    done = await services.sources.replace(
        params["sources"],
        before=params["before"],
        force=bool(params.get("force")),
        told=str if call.is_root else public,
    )
    return {**done, "added": _disclosed(call, done["added"]), "deleted": _disclosed(call, done["deleted"])}


async def _check(services: Services, _: NoParams, call: Call) -> list[CheckedSourceDocument]:
    return await services.sources.check()


async def _known(services: Services, _: NoParams, call: Call) -> list[KnownDocument]:
    return await services.sources.known()
