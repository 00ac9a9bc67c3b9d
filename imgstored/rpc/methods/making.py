"""Images for others: made of datasets and machines, exported, published."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from imgstored.create.maker import Wanted
from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound
from imgstored.rpc.params import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from imgstored.events.notifications import Event
    from imgstored.rpc.services import Document

#: Characters that are kept of what a client calls its file.
MAX_PATH = 1024


class Job(Protocol):
    """Something that takes a while: its events, and what came of it once they have ended."""

    @property
    def result(self) -> Document:
        """There is none before the events have ended."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]: ...


#: Leaving the block ends the job.
Jobs = AbstractAsyncContextManager[Job]


class Maker(Protocol):
    """Makes images. `fd` is an empty file, and stays the caller's; `path` is the client's word for it."""

    def create(self, wanted: Wanted, fd: int, *, client: str, path: str) -> Jobs:
        """The result is `{manifest}`."""
        ...


class Exporter(Protocol):
    """Writes installed images to files."""

    def export(
        self,
        uuid: str,
        fd: int,
        *,
        client: str,
        path: str,
        pool: str | None = None,
        compression: str = ...,
        form: str = ...,
    ) -> Jobs:
        """The result is `{manifest}`."""
        ...


class Publisher(Protocol):
    """Gives images to image servers."""

    def publish(self, manifest: Mapping[str, Any], fd: int, url: str, *, client: str, path: str) -> Jobs:
        """The result is `{uuid, url}`."""
        ...


@dataclass(frozen=True, slots=True)
class Making:
    """All of it."""

    maker: Maker
    exporter: Exporter
    publisher: Publisher


_CREATE = (
    "source",
    "manifest",
    "fields",
    "compression",
    "incremental",
    "max_origin_depth",
    "script",
    "path",
)


def making_methods(making: Making) -> Methods:
    """`create`, `export`, `publish`."""
    return {
        "create": Method(
            bound(_create, making.maker),
            _CREATE,
            change=True,
            only_root="reads what is in a machine",
            file=True,
        ),
        "export": Method(
            bound(_export, making.exporter),
            ("uuid", "pool", "compression", "format", "path"),
            change=True,
            file=True,
        ),
        "publish": Method(
            bound(_publish, making.publisher),
            ("manifest", "url", "path"),
            change=True,
            only_root="may use the credentials of the daemon's sources",
            file=True,
        ),
    }


async def _create(maker: Maker, call: Call) -> Document:
    params = call.params
    wanted = Wanted(
        source=params.text("source"),
        manifest=params.mapping("manifest"),
        fields=params.optional_texts("fields") or [],
        compression=params.optional_text("compression") or "none",
        incremental=params.flag("incremental"),
        max_origin_depth=params.optional_number("max_origin_depth"),
        script=params.optional_text("script"),
    )
    fd = call.take_file()
    try:
        return await _done(call, maker.create(wanted, fd, client=call.client.name, path=_path(call)))
    finally:
        os.close(fd)


async def _export(exporter: Exporter, call: Call) -> Document:
    params = call.params
    uuid, pool = params.text("uuid"), params.optional_text("pool")
    compression = params.optional_text("compression") or "none"
    form = params.optional_text("format") or "stream"
    fd = call.take_file()
    try:
        job = exporter.export(
            uuid,
            fd,
            client=call.client.name,
            path=_path(call),
            pool=pool,
            compression=compression,
            form=form,
        )
        return await _done(call, job)
    finally:
        os.close(fd)


async def _publish(publisher: Publisher, call: Call) -> Document:
    manifest, url = call.params.mapping("manifest"), call.params.text("url")
    fd = call.take_file()
    try:
        job = publisher.publish(manifest, fd, url, client=call.client.name, path=_path(call))
        return await _done(call, job)
    finally:
        os.close(fd)


async def _done(call: Call, jobs: Jobs) -> Document:
    """Passes the job's events on; what came of it."""
    async with jobs as job:
        async for event in job:
            await call.notify(event.as_wire())
        return job.result


def _path(call: Call) -> str:
    return printable(call.params.optional_text("path") or "", MAX_PATH) or "the file"
