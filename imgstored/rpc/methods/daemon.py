"""Methods for the daemon itself: its version, its state, its history and its events."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from imgproto import PROTOCOL_VERSION
from imgproto import operations as op

from imgstored import __version__
from imgstored.errors import UsageError
from imgstored.rpc.methods.bound import method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import (
        DoctorDocument,
        EntryDocument,
        EventsDocument,
        HelloDocument,
        StatusDocument,
    )
    from imgproto.params import EventsParams, HelloParams, HistoryParams, NoParams

    from imgstored.rpc.call import Call, Method
    from imgstored.rpc.services import Services

#: Entries of the history if the request has no limit.
DEFAULT_ENTRIES = 100


def methods(services: Services) -> Iterator[Method]:
    """`hello`, `status`, `doctor`, `history`, `events`."""
    yield method(services, op.HELLO, _hello)
    yield method(services, op.STATUS, _status)
    # It asks every source, and describes the host: not for users who may only read.
    yield method(services, op.DOCTOR, _doctor)
    yield method(services, op.HISTORY, _history, large=True)
    yield method(services, op.EVENTS, _events, lasting=True)


async def _hello(services: Services, params: HelloParams, call: Call) -> HelloDocument:
    protocol = params["protocol"]
    if protocol != PROTOCOL_VERSION:
        raise UsageError(
            f"this daemon speaks version {PROTOCOL_VERSION} of the protocol, not {protocol}",
            hint=f"imgstored is version {__version__}; use an imgctl of the same version",
        )
    call.client.introduce(params["client"])
    return {
        "protocol": PROTOCOL_VERSION,
        "server": "imgstored",
        "version": __version__,
        "pool": services.pools[0],
        "pools": list(services.pools),
        "features": list(op.FEATURES),
    }


async def _status(services: Services, _: NoParams, call: Call) -> StatusDocument:
    return await services.status.status()


async def _doctor(services: Services, _: NoParams, call: Call) -> DoctorDocument:
    return await services.doctor()


async def _history(services: Services, params: HistoryParams, call: Call) -> list[EntryDocument]:
    limit = params.get("limit")
    return await services.history.entries(params.get("uuid"), DEFAULT_ENTRIES if limit is None else limit)


async def _events(services: Services, params: EventsParams, call: Call) -> EventsDocument:
    since, follow = params.get("since"), params.get("follow")
    if since is not None and since < 0:
        raise UsageError(f"events: no event has the number {since}", hint="0 means all that are kept")
    async with aclosing(services.event_log.follow(since, on=follow is not False)) as events:
        async for event in events:
            await call.notify(event)
    return {"newest": services.event_log.newest}
