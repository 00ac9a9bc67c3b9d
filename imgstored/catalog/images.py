"""The installed images, as clients list, hold and delete them."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import trio
from imgproto.events import Held

from imgstored import lanes
from imgstored.catalog.catalog import as_wire, as_wires
from imgstored.catalog.holds import NOBODY
from imgstored.manifest import check_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from imgproto.documents import ImageDocument

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.deletions import Deletions
    from imgstored.catalog.holds import Holds
    from imgstored.catalog.refresh import Refresh
    from imgstored.events.stream import Requester


class Images:
    """The images of all pools. Each call first refreshes the pools, so its answer is up to date."""

    def __init__(
        self,
        catalog: Catalog,
        refresh: Refresh,
        deletions: Deletions,
        holds: Holds,
        expecting: Callable[[str, str], Sequence[str]],
    ) -> None:
        """`expecting` names the datasets that are about to be cloned from an image (pool, uuid)."""
        self._catalog = catalog
        self._refresh = refresh
        self._deletions = deletions
        self._holds = holds
        self._expecting = expecting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Releases the holds of an earlier daemon, then follows changes of others until it is cancelled."""
        await lanes.in_thread(self._holds.sweep)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._deletions.run)
            task_status.started()
            await self._refresh.run()

    # -- reading ---------------------------------------------------------------------------------------------

    async def installed(self, *, holds: bool = False) -> list[ImageDocument]:
        """All installed images as the protocol's *image*; see `Refresh.all` where a pool does not answer.

        With their `holds`, for which every pool must answer: raises `PoolError`.
        """
        await self._refresh.all()
        return as_wires(self._catalog, self._catalog.all(), await self._holds.all() if holds else None)

    async def image(self, uuid: str, pool: str | None, *, recursive: bool) -> ImageDocument:
        """One installed image; with `children` when recursive."""
        image = self._catalog.get(await self._fresh(uuid, pool), uuid)
        wire = as_wire(image)
        del wire["cloneNames"], wire["clones"]
        if recursive:
            clones = self._catalog.clones().get((image.pool, uuid), [])
            wire["children"] = {"snapshots": [f"{image.pool}/{uuid}@final"], "clones": clones}
        return wire

    async def ancestry(self, uuid: str, pool: str | None) -> list[ImageDocument]:
        """An installed image, its origin, and so on, as the protocol's *images*."""
        name = await self._fresh(uuid, pool)
        chain = [self._catalog.get(name, uuid)]
        while (origin := chain[-1].origin) is not None:
            chain.append(self._catalog.get(name, origin))
        return as_wires(self._catalog, chain)

    # -- deleting --------------------------------------------------------------------------------------------

    async def delete(self, uuid: str, pool: str | None, requester: Requester) -> None:
        """Removes an installed image. Refused while the image has clones, or is about to have one."""
        name = await self._fresh(uuid, pool)
        await self._deletions.delete(name, uuid, requester, self._expecting)

    # -- holding ---------------------------------------------------------------------------------------------

    async def hold(self, uuid: str, tag: str, pool: str | None, requester: Requester = NOBODY) -> None:
        """Protects an image from every deletion until the tag is released."""
        await self._holds.hold(uuid, tag, await self._fresh(uuid, pool), requester)

    async def release(self, uuid: str, tag: str, pool: str | None, requester: Requester = NOBODY) -> None:
        """Ends a hold."""
        await self._holds.release(uuid, tag, await self._fresh(uuid, pool), requester)

    async def holds(self, uuid: str, pool: str | None) -> list[str]:
        """The tags that hold an image, sorted."""
        return await self._holds.tags(uuid, await self._fresh(uuid, pool))

    @asynccontextmanager
    async def holding(
        self, uuid: str, pool: str | None, *, requester: Requester
    ) -> AsyncIterator[AsyncIterator[Held]]:
        """Protects an image from deletion as long as the block lasts; gives the hold's events."""
        name = await self._fresh(uuid, pool)
        held = self._holds.held(uuid, name, requester.client, uid=requester.uid)
        async with held as tag, aclosing(_held(uuid, tag)) as events:
            yield events

    async def _fresh(self, uuid: str, pool: str | None) -> str:
        """The pool's name, once its images are known and no deletion of this one is under way."""
        check_uuid(uuid)
        name = self._catalog.pool(pool).name
        await self._deletions.wait_for((name, uuid))
        await self._refresh.pool(name)
        return name


async def _held(uuid: str, tag: str) -> AsyncGenerator[Held, None]:
    yield Held(event="held", uuid=uuid, tag=tag)
    await trio.sleep_forever()
