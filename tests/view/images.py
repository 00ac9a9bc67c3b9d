"""Installed images for tests of the view, and the view run for as long as a test needs it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from imgstored.catalog.catalog import InstalledImage
from imgstored.pools.base import PoolImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from imgstored.view import View


def uuid(number: int) -> str:
    return f"22222222-aaaa-4bbb-8ccc-{number:012x}"


def image(
    number: int,
    name: str = "base",
    version: str | None = None,
    *,
    origin: int | None = None,
    pool: str = "zones",
    published: str = "2026-01-01T00:00:00Z",
    **more: Any,
) -> InstalledImage:
    """An image; its version is its number unless another is given."""
    manifest = {
        "v": 2,
        "uuid": uuid(number),
        "name": name,
        "version": f"1.{number}" if version is None else version,
        "published_at": published,
        "description": f"number {number}",
        **more,
    }
    parent = None if origin is None else uuid(origin)
    return InstalledImage(pool, PoolImage(uuid(number), number, parent, "filesystem", 1, 1), manifest)


@asynccontextmanager
async def running(view: View, images: Iterable[InstalledImage] = ()) -> AsyncIterator[None]:
    """The view, for the length of the block. What keeps it from starting is raised as it is."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(view.run, lambda: images)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
