"""Holds protect images from deletion: lasting tags, and tags of connected clients."""

from __future__ import annotations

import itertools
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, PoolError, UsageError
from imgstored.events.stream import HoldChanged, Requester
from imgstored.pools.base import MAX_TAG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imgstored.catalog.catalog import Catalog, InstalledImage, Key
    from imgstored.events.stream import EventStream
    from imgstored.pools.base import Pool

log = structlog.get_logger(__name__)

#: The prefix of clients' tags. The next daemon releases those of a daemon that was killed.
CLIENT_TAG = "client:"

#: The requester of a hold without a client.
NOBODY = Requester("imgstored")


class _Hold:
    """One client's hold. If it is given up while its thread waits for the pool, the thread releases it."""

    def __init__(self, pool: Pool, uuid: str, tag: str) -> None:
        self.pool = pool
        self.uuid = uuid
        self.tag = tag
        self._lock = threading.Lock()
        self._given_up = False
        self._taken = False

    def take(self) -> None:
        """Holds the image. Blocks."""
        self.pool.hold(self.uuid, self.tag)
        with self._lock:
            self._taken = True
            wanted = not self._given_up
        if not wanted:
            self.release()

    def give_up(self) -> bool:
        """Gives the hold up; returns True if the caller has to release it. Does not block."""
        with self._lock:
            self._given_up = True
            return self._taken

    def release(self) -> None:
        """Releases the image. Blocks."""
        self.pool.release(self.uuid, self.tag)


class Holds:
    """The holds of all pools. The pools store them, also across a restart. Blocking calls run in threads."""

    def __init__(self, catalog: Catalog, events: EventStream | None = None) -> None:
        self._catalog = catalog
        self._events = events
        self._numbers = itertools.count(1)

    async def hold(self, uuid: str, tag: str, pool: str | None, requester: Requester = NOBODY) -> None:
        """Keeps an image until the tag is released. Holding twice is no error."""
        if tag.startswith(CLIENT_TAG):
            raise UsageError(
                f'tags that begin with "{CLIENT_TAG}" are reserved for clients', hint="choose another tag"
            )
        image = self._catalog.get(self._catalog.pool(pool).name, uuid)
        await self._catalog.change(image.pool, partial(self._catalog.pool(image.pool).hold, uuid, tag))
        log.info("held", uuid=uuid, pool=image.pool, tag=tag)
        self._publish(image, tag, requester, held=True)

    async def release(self, uuid: str, tag: str, pool: str | None, requester: Requester = NOBODY) -> None:
        """Ends a hold. Releasing a tag that is not there is no error."""
        image = self._catalog.get(self._catalog.pool(pool).name, uuid)
        await self._catalog.change(image.pool, partial(self._catalog.pool(image.pool).release, uuid, tag))
        log.info("released", uuid=uuid, pool=image.pool, tag=tag)
        self._publish(image, tag, requester, held=False)

    async def tags(self, uuid: str, pool: str | None) -> list[str]:
        """The tags that hold an image, sorted."""
        image = self._catalog.get(self._catalog.pool(pool).name, uuid)
        holds = self._catalog.pool(image.pool).holds
        return await self._catalog.ask(image.pool, lambda: holds(uuid))

    async def all(self) -> dict[Key, tuple[str, ...]]:
        """The tags that hold each image, sorted. Raises `PoolError`."""
        found: dict[Key, tuple[str, ...]] = {}
        for name, pool in self._catalog.pools.items():
            uses = await self._catalog.ask(name, pool.uses)
            found.update({(name, uuid): use.tags for uuid, use in uses.items()})
        return found

    @asynccontextmanager
    async def held(
        self, uuid: str, pool: str | None, client: str, *, uid: int | None = None, announced: bool = True
    ) -> AsyncIterator[str]:
        """Keeps an image as long as the block lasts; gives the tag. Publishes events only if `announced`.

        Raises `PoolError` if the pool does not answer; the image is then released once it does.
        """
        image = self._catalog.get(self._catalog.pool(pool).name, uuid)
        keeper = self._catalog.pool(image.pool)
        tag = f"{CLIENT_TAG}{next(self._numbers)} {client}".encode()[:MAX_TAG].decode(errors="ignore")
        hold = _Hold(keeper, uuid, tag)
        with trio.CancelScope(shield=True):
            try:
                await self._catalog.change(image.pool, hold.take)
            except PoolError:
                if hold.give_up():
                    await self._release(hold)
                raise
        requester = Requester(client, uid)
        if announced:
            self._publish(image, tag, requester, held=True)
        try:
            yield tag
        finally:
            with trio.CancelScope(shield=True):
                await self._release(hold)
            if announced:
                self._publish(image, tag, requester, held=False)

    def _publish(self, image: InstalledImage, tag: str, requester: Requester, *, held: bool) -> None:
        """Publishes that a tag holds an image, or no longer does."""
        if self._events is not None:
            names = image.text("name"), image.text("version")
            self._events.publish(HoldChanged(held, tag, image.uuid, *names, image.pool, requester))

    async def _release(self, hold: _Hold) -> None:
        """Releases the image. If the pool does not answer, the thread does so later, or the next daemon."""
        try:
            await self._catalog.change(hold.pool.name, hold.release)
        except PoolError as error:
            log.warning("an image stays held", uuid=hold.uuid, tag=hold.tag, error=error.message)

    def sweep(self) -> None:
        """Releases the holds of an earlier daemon's clients, which are gone. Blocks."""
        for name, pool in self._catalog.pools.items():
            try:
                uses = pool.uses()
            except ImgstoreError as error:
                log.error("the holds of clients stay", pool=name, error=error.message)
                continue
            for uuid, use in uses.items():
                try:
                    for tag in use.tags:
                        if tag.startswith(CLIENT_TAG):
                            pool.release(uuid, tag)
                except ImgstoreError as error:
                    # The disk may be full, for example: the image stays held, and the next start tries again.
                    log.error("a client's hold stays", uuid=uuid, pool=name, error=error.message)
