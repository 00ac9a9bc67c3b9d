"""The socket's methods: each operation of `imgproto` with a thin function over the services of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.methods import daemon, images, imports, making, mirrors, sources

if TYPE_CHECKING:
    from imgstored.rpc.call import Methods
    from imgstored.rpc.services import Services


def methods(services: Services) -> Methods:
    """All methods."""
    return {
        method.operation.name: method
        for room in (daemon, images, sources, imports, making, mirrors)
        for method in room.methods(services)
    }
