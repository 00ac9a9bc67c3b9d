"""Methods for imports: begin, watch and cancel them, and plan one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproto import operations as op

from imgstored.host import foreign_files
from imgstored.rpc.call import always
from imgstored.rpc.methods.bound import file_name, method, pass_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import ImageChange, ImagesChange, InstalledChange, JobDocument, PlanDocument
    from imgproto.params import (
        EnsureParams,
        ImageParams,
        ImportParams,
        InstallParams,
        NoParams,
        PlanParams,
        WatchParams,
    )

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`import`, `ensure`, `install`, `plan`, `jobs`, `watch`, `cancel`."""
    yield method(services, op.IMPORT, _import)
    yield method(services, op.ENSURE, _ensure)
    yield method(services, op.INSTALL, _install)
    yield method(services, op.PLAN, _plan, asks=always)
    yield method(services, op.JOBS, _jobs, large=True)
    yield method(services, op.WATCH, _watch, lasting=True)
    yield method(services, op.CANCEL, _cancel)


async def _import(services: Services, params: ImportParams, call: Call) -> ImageChange:
    imports = services.imports
    request = (imports.detached if params.get("detach") else imports.request)(
        [params["uuid"]],
        requester=call.requester,
        pool=params.get("pool"),
        sources=params.get("sources"),
        channel=params.get("channel"),
        zstream=bool(params.get("zstream")),
    )
    await pass_on(call, request)
    return {"uuid": params["uuid"]}


async def _ensure(services: Services, params: EnsureParams, call: Call) -> ImagesChange:
    uuids, imports = params["uuids"], services.imports
    begin = imports.detached if params.get("detach") else imports.request
    await pass_on(call, begin(uuids, requester=call.requester, pool=params.get("pool")))
    return {"uuids": uuids}


async def _install(services: Services, params: InstallParams, call: Call) -> InstalledChange:
    manifest, path = params["manifest"], file_name(params.get("path"))
    fd = call.take_file()
    try:
        request = services.imports.install(
            manifest, fd, requester=call.requester, pool=params.get("pool"), path=path
        )
        await pass_on(call, request)
    finally:
        foreign_files.close(fd)
    return {"uuid": manifest.get("uuid")}


async def _plan(services: Services, params: PlanParams, call: Call) -> PlanDocument:
    if params.get("sources") is not None:
        # Users who may only read must not make root's daemon ask servers of their choice.
        call.require_change()
    return await services.dry_run.plan(
        params["uuid"],
        pool=params.get("pool"),
        sources=params.get("sources"),
        channel=params.get("channel"),
    )


async def _jobs(services: Services, _: NoParams, call: Call) -> list[JobDocument]:
    return services.imports.jobs()


async def _watch(services: Services, params: WatchParams, call: Call) -> None:
    await pass_on(call, services.imports.watch(params.get("uuid")))


async def _cancel(services: Services, params: ImageParams, call: Call) -> ImageChange:
    await services.imports.cancel(params["uuid"])
    return {"uuid": params["uuid"]}
