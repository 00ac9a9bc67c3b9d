"""A maker, an exporter and a publisher for the fake daemon: each plays the events that a test gives it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from imgstored.errors import ImgstoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from imgproto.events import EventDocument

    from imgstored.create.maker import CreateSpec


class FakeMaking:
    """`content` goes into the files that are written.

    Among the events are also waits: text for one until the client leaves, a path until somebody makes it.
    """

    def __init__(self) -> None:
        self.events: list[EventDocument | ImgstoreError | str | Path] = []
        self.result: dict[str, Any] = {}
        self.content = b"a stream"
        self.asked: list[Any] = []
        self.keys: list[str] = []

    @asynccontextmanager
    async def create(self, spec: CreateSpec, fd: int, *, client: str, path: str) -> AsyncIterator[FakeMaking]:
        self.asked.append(spec)
        os.write(fd, self.content)
        yield self

    @asynccontextmanager
    async def export(self, uuid: str, fd: int, **given: Any) -> AsyncIterator[FakeMaking]:
        self.asked.append({"uuid": uuid, **given})
        os.write(fd, self.content)
        yield self

    @asynccontextmanager
    async def publish(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        url: str,
        *,
        client: str,
        path: str,
        token: str | None = None,
        keys: Sequence[str] = (),
    ) -> AsyncIterator[FakeMaking]:
        self.asked.append({"manifest": dict(manifest), "url": url, "file": os.pread(fd, 1 << 20, 0)})
        self.token, self.keys = token, [*keys]
        yield self

    async def __aiter__(self) -> AsyncIterator[EventDocument]:
        for event in self.events:
            if isinstance(event, ImgstoreError):
                raise event
            if isinstance(event, str):
                await trio.sleep_forever()
            elif isinstance(event, Path):
                while not event.exists():  # noqa: ASYNC110  (another process makes it)
                    await trio.sleep(0.01)
            else:
                yield event
