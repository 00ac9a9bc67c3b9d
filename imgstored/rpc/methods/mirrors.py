"""The library's images elsewhere: static sites."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgproto import operations as op

from imgstored.mirrors.export_site import DEFAULT_DAYS, SiteSpec
from imgstored.rpc.methods.bound import done, file_name, method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import SiteDocument
    from imgproto.params import ExportSiteParams

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`site.export`."""
    yield method(services, op.EXPORT_SITE, _export_site, why_root="writes into a folder with root's rights")


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
        os.close(fd)
