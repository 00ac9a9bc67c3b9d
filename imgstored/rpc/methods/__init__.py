"""The socket's methods: docs/protocol.md's table, each row a thin function over a service of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.rpc.methods.care import care_methods
from imgstored.rpc.methods.doctor import doctor_methods
from imgstored.rpc.methods.hello import hello_methods
from imgstored.rpc.methods.holds import hold_methods
from imgstored.rpc.methods.images import image_methods
from imgstored.rpc.methods.imports import import_methods
from imgstored.rpc.methods.making import making_methods
from imgstored.rpc.methods.sources import source_methods
from imgstored.rpc.methods.status import status_methods
from imgstored.rpc.methods.upkeep import upkeep_methods
from imgstored.rpc.methods.verify import verify_methods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.rpc.call import Methods
    from imgstored.rpc.methods.care import Care
    from imgstored.rpc.methods.doctor import Doctor
    from imgstored.rpc.methods.making import Making
    from imgstored.rpc.methods.status import Status
    from imgstored.rpc.methods.verify import Verifier
    from imgstored.rpc.services import Images, Imports, Sources, Upkeep


def methods(
    images: Images,
    imports: Imports,
    sources: Sources,
    *,
    pools: Sequence[str],
    care: Care,
    upkeep: Upkeep,
    verifier: Verifier,
    making: Making,
    status: Status,
    doctor: Doctor,
) -> Methods:
    """All methods. The first of `pools` is the one that is used where a request names none."""
    return {
        **hello_methods(pools),
        **image_methods(images, sources),
        **source_methods(sources),
        **import_methods(imports),
        **hold_methods(images),
        **care_methods(care),
        **upkeep_methods(upkeep),
        **verify_methods(verifier),
        **making_methods(making),
        **status_methods(status),
        **doctor_methods(doctor),
    }
