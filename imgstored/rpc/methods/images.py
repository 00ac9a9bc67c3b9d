"""Methods for installed images: lists and details, deletion and holds, maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgproto import operations as op

from imgstored.rpc.call import always
from imgstored.rpc.methods.bound import method, pass_on, sender
from imgstored.sources.container import is_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproto.documents import (
        AliasChange,
        AliasDocument,
        HoldChange,
        ImageChange,
        ImageDocument,
        ImagesChange,
        NamedDocument,
        OutdatedDocument,
        Result,
        UsageDocument,
        VacuumDocument,
    )
    from imgproto.params import (
        AliasParams,
        GetParams,
        HoldParams,
        InstalledParams,
        ListParams,
        NoParams,
        OutdatedParams,
        ReleaseParams,
        ResolveParams,
        UnaliasParams,
        UpdateParams,
        UsageParams,
        VacuumParams,
        VerifyParams,
    )

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services


def methods(services: Services) -> Iterator[Method]:
    """`list`, `get`, `ancestry`, `resolve`, `usage`, `outdated`, aliases, `delete`, holds, maintenance."""
    yield method(services, op.LIST, _list, large=True)
    yield method(services, op.GET, _get)
    yield method(services, op.ANCESTRY, _ancestry, large=True)
    yield method(services, op.RESOLVE, _resolve, large=True, asks=_asks)
    yield method(services, op.USAGE, _usage, large=True)
    yield method(services, op.OUTDATED, _outdated, large=True, asks=always)
    yield method(services, op.ALIASES, _aliases)
    yield method(services, op.ALIAS, _alias)
    yield method(services, op.UNALIAS, _unalias)
    yield method(services, op.DELETE, _delete)
    yield method(services, op.HOLD, _hold)
    yield method(services, op.RELEASE, _release)
    yield method(services, op.HOLDS, _holds)
    yield method(services, op.UPDATE, _update)
    yield method(services, op.VACUUM, _vacuum, large=True)
    # It keeps the disks busy, and holds images: not for users who may only read.
    yield method(services, op.VERIFY, _verify)


# -- lists and details ---------------------------------------------------------------------------------------


async def _list(services: Services, params: ListParams, call: Call) -> list[ImageDocument]:
    return await services.images.installed(holds=bool(params.get("holds")))


async def _get(services: Services, params: GetParams, call: Call) -> ImageDocument:
    recursive = bool(params.get("recursive"))
    return await services.images.image(params["uuid"], params.get("pool"), recursive=recursive)


async def _ancestry(services: Services, params: InstalledParams, call: Call) -> list[ImageDocument]:
    return await services.images.ancestry(params["uuid"], params.get("pool"))


def _asks(params: Mapping[str, Any]) -> bool:
    return params["among"] in ("available", "active")


async def _resolve(services: Services, params: ResolveParams, call: Call) -> list[NamedDocument]:
    if params.get("sources") is not None or (_asks(params) and any(map(is_reference, params["names"]))):
        # Users who may only read must not make root's daemon ask servers of their choice.
        call.require_change()
    return await services.resolver.resolve(
        params["names"],
        params["among"],
        pool=params.get("pool"),
        sources=params.get("sources"),
        channel=params.get("channel"),
    )


async def _usage(services: Services, params: UsageParams, call: Call) -> list[UsageDocument]:
    return await services.usage.usage(params.get("pool"), params.get("uuids") or [])


async def _outdated(services: Services, params: OutdatedParams, call: Call) -> OutdatedDocument:
    return await services.outdated.outdated(params.get("pool"))


# -- aliases -------------------------------------------------------------------------------------------------


async def _aliases(services: Services, _: NoParams, call: Call) -> list[AliasDocument]:
    return services.aliases.all()


async def _alias(services: Services, params: AliasParams, call: Call) -> AliasChange:
    alias, uuid = params["alias"], params["uuid"]
    return {"alias": alias, "uuid": uuid, "before": await services.aliases.set(alias, uuid)}


async def _unalias(services: Services, params: UnaliasParams, call: Call) -> AliasDocument:
    return {"alias": params["alias"], "uuid": await services.aliases.remove(params["alias"])}


# -- deletion and holds --------------------------------------------------------------------------------------


async def _delete(services: Services, params: InstalledParams, call: Call) -> ImageChange:
    await services.images.delete(params["uuid"], params.get("pool"), call.requester)
    return {"uuid": params["uuid"]}


async def _hold(services: Services, params: HoldParams, call: Call) -> HoldChange:
    """Without a tag the hold lasts as long as the request."""
    uuid, tag, pool = params["uuid"], params.get("tag"), params.get("pool")
    if tag is None:
        await pass_on(call, services.images.holding(uuid, pool, requester=call.requester))
    else:
        await services.images.hold(uuid, tag, pool, call.requester)
    return {"uuid": uuid, "tag": tag}


async def _release(services: Services, params: ReleaseParams, call: Call) -> HoldChange:
    await services.images.release(params["uuid"], params["tag"], params.get("pool"), call.requester)
    return {"uuid": params["uuid"], "tag": params["tag"]}


async def _holds(services: Services, params: InstalledParams, call: Call) -> list[str]:
    return await services.images.holds(params["uuid"], params.get("pool"))


# -- maintenance ---------------------------------------------------------------------------------------------


async def _update(services: Services, params: UpdateParams, call: Call) -> ImagesChange:
    uuids = params.get("uuids") or []
    await pass_on(call, services.maintenance.update(uuids, dry_run=bool(params.get("dry_run"))))
    return {"uuids": uuids}


async def _vacuum(services: Services, params: VacuumParams, call: Call) -> list[VacuumDocument]:
    return await services.maintenance.vacuum(
        older_than=params.get("older_than"), keep=params.get("keep") or 0, tell=sender(call)
    )


async def _verify(services: Services, params: VerifyParams, call: Call) -> dict[Result, int]:
    return await services.verifier.verify(
        params.get("uuids"),
        params.get("pool"),
        client=call.client.name,
        tell=sender(call),
        record=bool(params.get("record")),
    )
