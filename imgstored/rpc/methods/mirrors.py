"""Methods for images of the library: static sites and mirrors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproto import operations as op

from imgstored.host import foreign_files
from imgstored.mirrors.export_site import DEFAULT_DAYS, SiteSpec
from imgstored.mirrors.mirror import MirrorSpec
from imgstored.mirrors.selection import Filter
from imgstored.rpc.methods.bound import done, file_name, method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import MirrorDocument, SiteDocument
    from imgproto.params import ExportSiteParams, MirrorParams

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`site.export`, `mirror`."""
    yield method(services, op.EXPORT_SITE, _export_site, why_root="writes into a folder with root's rights")
    yield method(services, op.MIRROR, _mirror)


async def _mirror(services: Services, params: MirrorParams, call: Call) -> MirrorDocument:
    to = params.get("to")
    if to is not None:
        call.require_root("may use the credentials of a registry")
    wanted = Filter(params.get("name"), params.get("os"), params.get("newest"))
    job = services.mirrors.mirror(
        MirrorSpec(params["url"], wanted, to=to), client=call.client.name, dry_run=bool(params.get("dry_run"))
    )
    return await done(call, job)


async def _export_site(services: Services, params: ExportSiteParams, call: Call) -> SiteDocument:
    days = params.get("days")
    spec = SiteSpec(
        names=params.get("names") or (),
        url=params.get("url"),
        keys=params.get("keys") or (),
        days=DEFAULT_DAYS if days is None else days,
        delete=bool(params.get("delete")),
    )
    fd = call.take_file()
    try:
        job = services.site_exporter.export(
            spec, fd, client=call.client.name, path=file_name(params.get("path"))
        )
        return await done(call, job)
    finally:
        foreign_files.close(fd)
