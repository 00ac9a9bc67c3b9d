"""How a client and the daemon get to know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored import __version__
from imgstored.errors import UsageError
from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.rpc.services import Document

PROTOCOL_VERSION = 1

#: What a client may rely on beyond version 1's first methods; each is the name of a method.
FEATURES = ("import", "ensure", "install", "delete", "jobs", "watch", "cancel", "sources", "hold", "resolve",
            "plan", "usage", "history", "ancestry", "update", "vacuum", "sources.set",
            "sources.known", "verify", "create", "export", "publish", "status", "doctor")  # fmt: skip


def hello_methods(pools: Sequence[str]) -> Methods:
    """`hello`. The first of the pools is the one that is used where a request names none."""
    return {"hello": Method(bound(_hello, pools), ("client", "protocol"))}


async def _hello(pools: Sequence[str], call: Call) -> Document:
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
        "pool": pools[0],
        "pools": list(pools),
        "features": list(FEATURES),
    }
