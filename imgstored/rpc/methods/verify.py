"""Whether what is installed is what was installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgstored.events.notifications import Event


class Verifier(Protocol):
    """Reads images again. Raises `ImgstoreError`."""

    async def verify(
        self,
        uuids: Sequence[str] | None,
        pool: str | None,
        *,
        client: str,
        tell: Callable[[Event], Awaitable[None]],
        record: bool = False,
    ) -> dict[str, int]:
        """Tells how each image is; returns how many are how."""
        ...


def verify_methods(verifier: Verifier) -> Methods:
    """`verify`. It keeps the disks busy, and images from being deleted: not for those who may only read."""
    return {"verify": Method(bound(_verify, verifier), ("uuids", "pool", "record"), change=True)}


async def _verify(verifier: Verifier, call: Call) -> dict[str, int]:
    params = call.params

    async def tell(event: Event) -> None:
        await call.notify(event.as_wire())

    uuids, pool = params.optional_texts("uuids"), params.optional_text("pool")
    return await verifier.verify(
        uuids, pool, client=call.client.name, tell=tell, record=params.flag("record")
    )
