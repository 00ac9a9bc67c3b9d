"""imgstored's own socket over a store that does what a test tells it to."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from imgstored.errors import ImageNotFoundError, ImageNotInstalledError, ImgstoreError
from imgstored.rpc.methods import methods
from imgstored.rpc.server import Server
from imgstored.rpc.services import Services
from tests.ctl.fake_making import FakeMaking
from tests.ctl.fake_queries import FakeAliases, FakeQueries
from tests.support.events import Installed, Installing
from tests.support.limits import socket_limits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from imgproto.events import EventDocument

    from imgstored.events.stream import Requester
    from imgstored.rpc.connection import Limits

#: In a script: nothing more happens until the client leaves.
HOLD = "hold"

#: Events, an error that ends the request, or HOLD; a number is a pause in seconds.
Script = list["EventDocument | ImgstoreError | str | float"]


class FakeStore:
    """Plays `scripts`: what happens to an image that is asked for. Records who asked for what."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.scripts: dict[str, Script] = {}
        self.errors: dict[str, ImgstoreError] = {}  # by the name of a method
        self.wishes: list[dict[str, Any]] = []
        self.files: list[tuple[dict[str, Any], bytes, str]] = []
        self.underway: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.tags: list[str] = []
        self.held: list[tuple[str, str, str]] = []
        self.begun = threading.Event()
        self.left = threading.Event()

    async def installed(self, *, holds: bool) -> list[dict[str, Any]]:
        self._fail("list")
        return [{**image, "holds": self.tags} for image in self.images] if holds else self.images

    async def image(self, uuid: str, pool: str | None, *, recursive: bool) -> dict[str, Any]:
        self._fail("get")
        pool = pool or "zones"
        for image in self.images:
            if (image["zpool"], image["manifest"]["uuid"]) == (pool, uuid):
                if not recursive:
                    return image
                return {
                    **image,
                    "children": {"snapshots": [f"{pool}/{uuid}@final"], "clones": image["cloneNames"]},
                }
        raise ImageNotInstalledError(uuid, pool)

    async def ancestry(self, uuid: str, pool: str | None) -> list[dict[str, Any]]:
        self._fail("ancestry")
        chain = [await self.image(uuid, pool, recursive=False)]
        while (origin := chain[-1]["manifest"].get("origin")) is not None:
            chain.append(await self.image(origin, pool, recursive=False))
        return chain

    @asynccontextmanager
    async def request(
        self, uuids: Sequence[str], *, requester: Requester, **wish: Any
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        self.wishes.append({"uuids": list(uuids), "client": requester.client, **wish})
        try:
            yield self._play([step for uuid in uuids for step in self.scripts[uuid]])
        finally:
            self.left.set()

    @asynccontextmanager
    async def detached(
        self, uuids: Sequence[str], *, requester: Requester, **wish: Any
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        async with self.request(uuids, requester=requester, detach=True, **wish) as events:
            yield events

    newest = 0

    async def follow(self, since: int | None, *, on: bool) -> AsyncGenerator[Any, None]:
        """The numbered events of the script "events" after `since`."""
        self.wishes.append({"since": since, "on": on})
        async for event in self._play(self.scripts["events"]):
            if event["number"] > (since or 0):
                yield event

    @asynccontextmanager
    async def install(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        *,
        requester: Requester,
        pool: str | None = None,
        path: str = "",
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        self.files.append((dict(manifest), os.pread(fd, 1 << 20, 0), path))
        uuid, name, version = manifest["uuid"], manifest["name"], manifest["version"]
        events = [Installing(uuid, name, version), Installed(uuid, name, version, from_file=True)]
        yield self._play(self.scripts.get("install", [*events]))

    async def delete(self, uuid: str, pool: str | None, requester: Requester) -> None:
        self._fail("delete")
        self.images.remove(await self.image(uuid, pool, recursive=False))

    async def hold(self, uuid: str, tag: str, pool: str | None, requester: Requester) -> None:
        await self.image(uuid, pool, recursive=False)
        self.held.append(("hold", uuid, tag))

    async def release(self, uuid: str, tag: str, pool: str | None, requester: Requester) -> None:
        await self.image(uuid, pool, recursive=False)
        self.held.append(("release", uuid, tag))

    async def holds(self, uuid: str, pool: str | None) -> list[str]:
        return self.tags

    def jobs(self) -> list[dict[str, Any]]:
        return self.underway

    @asynccontextmanager
    async def watch(self, uuid: str | None) -> AsyncIterator[AsyncIterator[EventDocument]]:
        try:
            yield self._play(self.scripts[uuid or "watch"])
        finally:
            self.left.set()

    async def cancel(self, uuid: str) -> None:
        self._fail("cancel")
        self.cancelled.append(uuid)

    async def _play(self, script: Script) -> AsyncIterator[EventDocument]:
        for step in script:
            match step:
                case ImgstoreError():
                    raise step
                case str():
                    self.begun.set()
                    await trio.sleep_forever()
                case int() | float():
                    await trio.sleep(step)
                case _:
                    yield step

    def _fail(self, method: str) -> None:
        if method in self.errors:
            raise self.errors[method]


class FakeVerifier:
    """Tells the events that a test puts into it; the results are those of its `Verified`."""

    def __init__(self) -> None:
        self.events: list[EventDocument] = []
        self.asked: list[dict[str, Any]] = []

    async def verify(
        self,
        uuids: Sequence[str] | None,
        pool: str | None,
        *,
        client: str,
        tell: Any,
        record: bool = False,
    ) -> dict[str, int]:
        self.asked.append({"uuids": uuids, "pool": pool} | ({"record": True} if record else {}))
        results: dict[str, int] = {}
        for event in self.events:
            await tell(event)
            if event["event"] == "verified":
                results[event["result"]] = results.get(event["result"], 0) + 1
        return results


class FakeSources:
    """A list of sources, and what they have."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"images": [], "problems": []}
        self.specs: list[dict[str, Any]] = []
        self.manifests: dict[str, dict[str, Any]] = {}
        self.refusal: ImgstoreError | None = None
        self.checked: list[dict[str, Any]] = []
        self.remembered: list[dict[str, Any]] = []

    async def available(self) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        return self.found

    async def show(self, uuid: str) -> dict[str, Any]:
        if uuid not in self.manifests:
            raise ImageNotFoundError(f'image "{uuid}" was not found')
        return self.manifests[uuid]

    async def known(self) -> list[dict[str, Any]]:
        return self.remembered

    async def listed(self) -> list[dict[str, Any]]:
        return self.specs

    async def add(self, url: str, kind: str | None, insecure: bool, force: bool, /) -> dict[str, Any]:
        if self.refusal is not None and not force:
            raise self.refusal
        spec = {"url": url.rstrip("/"), "type": kind or "imgapi", "insecure": insecure, "channel": None}
        added = spec not in self.specs
        if added:
            self.specs.append(spec)
        return {"added": added, "source": spec}

    async def delete(self, url: str) -> dict[str, Any]:
        deleted = [spec for spec in self.specs if spec["url"] == url]
        self.specs = [spec for spec in self.specs if spec["url"] != url]
        return {"deleted": deleted}

    async def replace(
        self,
        given: Sequence[Mapping[str, Any]],
        *,
        before: Sequence[Mapping[str, Any]],
        force: bool,
        told: Callable[[str], str],
    ) -> dict[str, Any]:
        if self.refusal is not None and not force:
            raise self.refusal
        assert [*before] == self.specs
        wanted = [{"channel": None, "insecure": False, **spec} for spec in given]
        added = [spec for spec in wanted if spec not in self.specs]
        deleted = [spec for spec in self.specs if spec not in wanted]
        self.specs = wanted
        return {"reordered": False, "added": added, "deleted": deleted}

    async def check(self) -> list[dict[str, Any]]:
        return self.checked


class FakeMaintenance:
    """Tells the events that a test puts into it; `planned` is what could be deleted, `left` what is not."""

    def __init__(self) -> None:
        self.events: list[EventDocument | ImgstoreError] = []
        self.planned: list[dict[str, Any]] = []
        self.left: list[EventDocument] = []
        self.asked: list[dict[str, Any]] = []

    @asynccontextmanager
    async def update(
        self, uuids: Sequence[str], *, dry_run: bool
    ) -> AsyncIterator[AsyncIterator[EventDocument]]:
        self.asked.append({"uuids": [*uuids], "dry_run": dry_run})
        yield self._tell()

    async def _tell(self) -> AsyncIterator[EventDocument]:
        for event in self.events:
            if isinstance(event, ImgstoreError):
                raise event
            yield event

    async def vacuum(
        self, *, older_than: int | None, keep: int, tell: Callable[[EventDocument], Awaitable[None]]
    ) -> list[dict[str, Any]]:
        for event in self.left:
            await tell(event)
        self.asked.append({"older_than": older_than, "keep": keep})
        return self.planned


class FakeStatus:
    """Answers with what a test puts into it: one look after another, and the last one again and again."""

    def __init__(self) -> None:
        self.looks: list[dict[str, Any] | ImgstoreError] = []
        self.asked = 0

    async def status(self) -> dict[str, Any]:
        self.asked += 1
        if not self.looks:
            return {}  # as `du` wants it, which looks at little of it
        look = self.looks[min(self.asked, len(self.looks)) - 1]
        if isinstance(look, ImgstoreError):
            raise look
        return look


class FakeDoctor:
    """Finds what a test tells it to."""

    def __init__(self) -> None:
        self.findings: list[dict[str, str]] = []
        self.error: ImgstoreError | None = None

    async def examine(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"version": "0.1.0", "running": True, "findings": self.findings}


class FakeDaemon:
    """The real server, in a thread of its own."""

    def __init__(self, folder: Path, *, limits: Limits | None = None) -> None:
        self.path = folder / "run" / "imgstored.sock"
        self.store = FakeStore()
        self.sources = FakeSources()
        self.maintenance = FakeMaintenance()
        self.verifier = FakeVerifier()
        self.making = FakeMaking()
        self.status = FakeStatus()
        self.doctor = FakeDoctor()
        self.aliases = FakeAliases()
        self.queries = FakeQueries(self.store, self.sources, self.aliases)
        self._limits = limits or socket_limits()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), name="fake daemon")
        self._server: Server | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        assert self._ready.wait(10), "the fake daemon did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As SIGTERM does. A second call does nothing."""
        if self._thread.is_alive():
            assert self._token is not None
            assert self._server is not None
            trio.from_thread.run_sync(self._server.stop, trio_token=self._token)
            self._thread.join(10)
            assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        services = Services(
            pools=["zones"],
            images=self.store,
            aliases=self.aliases,
            imports=self.store,
            sources=self.sources,
            resolver=self.queries,
            dry_run=self.queries,
            outdated=self.queries,
            usage=self.queries,
            history=self.queries,
            event_log=self.store,
            maintenance=self.maintenance,
            verifier=self.verifier,
            maker=self.making,
            exporter=self.making,
            publisher=self.making,
            site_exporter=self.making,
            mirrors=self.making,
            status=self.status,
            doctor=self.doctor.examine,
        )
        self._server = Server(self.path, methods(services), limits=self._limits)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.serve)
            self._ready.set()
