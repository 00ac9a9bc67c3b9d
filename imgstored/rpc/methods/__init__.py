"""The socket's methods: docs/protocol.md's table, each row a thin function over a service of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.methods.hello import hello_methods
from imgstored.rpc.methods.holds import hold_methods
from imgstored.rpc.methods.images import image_methods
from imgstored.rpc.methods.imports import import_methods
from imgstored.rpc.methods.sources import source_methods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.rpc.call import Methods
    from imgstored.rpc.services import Sources, Store


def methods(store: Store, sources: Sources, *, pools: Sequence[str]) -> Methods:
    """All methods. The first of `pools` is the one that is used where a request names none."""
    return {
        **hello_methods(pools),
        **image_methods(store, sources),
        **source_methods(sources),
        **import_methods(store),
        **hold_methods(store),
    }
