"""Methods for new images: create from datasets and machines, export, publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproto import operations as op

from imgstored.create.maker import CreateSpec
from imgstored.host import foreign_files
from imgstored.rpc.methods.bound import done, file_name, method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import MadeDocument, PublishedDocument
    from imgproto.params import CreateParams, ExportParams, PublishParams

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`create`, `export`, `publish`."""
    yield method(services, op.CREATE, _create, why_root="reads what is in a machine")
    yield method(services, op.EXPORT, _export)
    why = "may use the credentials of the daemon's sources"
    yield method(services, op.PUBLISH, _publish, why_root=why)


async def _create(services: Services, params: CreateParams, call: Call) -> MadeDocument:
    spec = CreateSpec(
        source=params["source"],
        manifest=params["manifest"],
        fields=params.get("fields") or [],
        compression=params.get("compression") or "none",
        index=bool(params.get("index")),
        incremental=bool(params.get("incremental")),
        max_origin_depth=params.get("max_origin_depth"),
        script=params.get("script"),
    )
    fd = call.take_file()
    try:
        job = services.maker.create(spec, fd, client=call.client.name, path=file_name(params.get("path")))
        return await done(call, job)
    finally:
        foreign_files.close(fd)


async def _export(services: Services, params: ExportParams, call: Call) -> MadeDocument:
    fd = call.take_file()
    try:
        job = services.exporter.export(
            params["uuid"],
            fd,
            client=call.client.name,
            path=file_name(params.get("path")),
            pool=params.get("pool"),
            compression=params.get("compression") or "none",
            index=bool(params.get("index")),
            form=params.get("format") or "stream",
        )
        return await done(call, job)
    finally:
        foreign_files.close(fd)


async def _publish(services: Services, params: PublishParams, call: Call) -> PublishedDocument:
    fd = call.take_file()
    try:
        job = services.publisher.publish(
            params["manifest"],
            fd,
            params["url"],
            client=call.client.name,
            path=file_name(params.get("path")),
            token=params.get("token"),
            keys=params.get("keys") or (),
        )
        return await done(call, job)
    finally:
        foreign_files.close(fd)
