"""The daemon's services that say what is good to know of images, over what a test puts into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgstored.errors import (
    ActiveImageNotFoundError,
    ImageNotFoundError,
    ImageNotInstalledError,
    ImgstoreError,
    UsageError,
)
from imgstored.queries.names import named, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.ctl.fake_daemon import FakeSources, FakeStore


class FakeAliases:
    """Aliases in memory."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}

    def all(self) -> list[dict[str, str]]:
        return [{"alias": alias, "uuid": uuid} for alias, uuid in sorted(self.there.items())]

    async def set(self, alias: str, uuid: str) -> str | None:
        before = self.there.get(alias)
        self.there[alias] = uuid
        return before

    async def remove(self, alias: str) -> str:
        if alias not in self.there:
            raise UsageError(f'there is no alias "{alias}"')
        return self.there.pop(alias)


class FakeQueries:
    """Names are looked up among the images of the fake store and sources. Records what is asked."""

    def __init__(self, store: FakeStore, sources: FakeSources, aliases: FakeAliases) -> None:
        self._store = store
        self._aliases = aliases
        self.old: dict[str, Any] = {"images": [], "problems": []}
        self._sources = sources
        self.asked: list[dict[str, Any]] = []
        self.plans: dict[str, dict[str, Any]] = {}
        self.pools: list[dict[str, Any]] = []
        self.past: list[dict[str, Any]] = []

    async def resolve(self, names: Sequence[str], among: str, **where: Any) -> list[dict[str, Any]]:
        self.asked.append({"names": list(names), "among": among, **where})
        offered = [image["manifest"] for image in self._sources.found["images"]]
        documents = {
            "installed": [image["manifest"] for image in self._store.images],
            "available": offered,
            "active": [manifest for manifest in offered if manifest.get("state", "active") == "active"],
            "jobs": self._store.underway,
            "history": self.past,
        }[among]
        meant = [self._aliases.there.get(name, name) for name in names]
        return [self._one(name, among, documents) for name in meant]

    async def outdated(self, pool: str | None = None) -> dict[str, Any]:
        self.asked.append({"pool": pool})
        return self.old

    def _one(self, name: str, among: str, documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
        image = resolve(name, [named(document) for document in documents])
        if image is not None:
            return image.as_wire()
        error: ImgstoreError = ImageNotInstalledError(name, "zones")
        if among == "active":
            error = ActiveImageNotFoundError(f'an active image "{name}" was not found in image sources')
        elif among in ("available", "history"):
            error = ImageNotFoundError(f'image "{name}" was not found')
        raise error

    async def plan(self, uuid: str, **where: Any) -> dict[str, Any]:
        self.asked.append({"uuid": uuid, **where})
        return self.plans[uuid]

    async def usage(self, pool: str | None = None, uuids: Sequence[str] = ()) -> list[dict[str, Any]]:
        self.asked.append({"pool": pool, "uuids": list(uuids)})
        return self.pools

    async def entries(self, uuid: str | None, limit: int) -> list[dict[str, Any]]:
        self.asked.append({"uuid": uuid, "limit": limit})
        return self.past
