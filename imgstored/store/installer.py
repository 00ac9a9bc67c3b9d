"""How one layer gets from its source into its pool, and what is left behind when it does not.

    download ──► spool ──► digest ──► decompress ──► pool.receive ──► manifest ──► pool.publish

`publish` is the moment when the image comes to be. What is kept when a layer ends otherwise:

| it ended because                        | pool's partial | spool and journal             |
| --------------------------------------- | -------------- | ----------------------------- |
| the daemon is stopping, or was killed   | kept           | kept: goes on after restart   |
| nobody wanted it, or a server failed    | dropped        | kept: serves the next try     |
| the bytes are wrong, or there is no room| dropped        | dropped                       |
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from imgstored.errors import (
    CancelledError,
    DownloadError,
    ImgstoreError,
    InternalError,
    NoSpaceError,
    StreamError,
    UncompressionError,
)
from imgstored.http.location import Location
from imgstored.pools.base import Blocks, Pool
from imgstored.store.catalog import Catalog, InstalledImage
from imgstored.store.events import Downloaded, Note, Resumed
from imgstored.store.journal import Journal, JournalledImport
from imgstored.store.layer import Layer

log = structlog.get_logger(__name__)


class View(Protocol):
    """Where installed images are shown as files."""

    async def add(self, image: InstalledImage) -> None: ...

    async def remove(self, image: InstalledImage) -> None: ...


@dataclass(frozen=True, slots=True)
class FromSources:
    """The bytes come over the network, from any of `locations`. The rest says how to find them again."""

    locations: tuple[Location, ...]
    sources: tuple[str, ...] | None
    channel: str | None


@dataclass(frozen=True, slots=True)
class FromFile:
    """The bytes are in a file that a client has opened; `path` is for messages."""

    fd: int
    path: str


@dataclass(frozen=True, slots=True)
class InstallLimits:
    """Bounds on what is installed at the same time, and on what one image may take. Sizes in bytes."""

    imports: int = 4
    min_free: int = 64 << 20
    keep_partial_seconds: float = 7 * 86400.0
    download: DownloadLimits = DownloadLimits()
    decompress: DecompressLimits = DecompressLimits()


class Installer:
    """Does the work of the layers. Everything that blocks runs in threads of bounded number."""

    def __init__(
        self, catalog: Catalog, journal: Journal, spool_folder: Path, view: View, limits: InstallLimits
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._spools = spool_folder
        self._view = view
        self.reconfigure(limits)

    def reconfigure(self, limits: InstallLimits) -> None:
        """Takes new limits for what begins from now on."""
        self._limits = limits
        self._downloading = trio.CapacityLimiter(limits.imports)
        # A receive needs no download slot once its bytes are there, and must not take one from a download.
        self._receiving = trio.CapacityLimiter(2 * limits.imports)

    # -- one layer -------------------------------------------------------------------------------------------

    async def install(
        self, layer: Layer, origin_of_bytes: FromSources | FromFile, *, stopping: Callable[[], bool]
    ) -> ImgstoreError | None:
        """Installs the layer's image; returns what kept it from that. Cancelling it leaves what the table says."""
        log.info("installing", uuid=layer.uuid, pool=layer.pool, source=layer.source)
        try:
            if isinstance(origin_of_bytes, FromFile):
                await self._from_file(layer, origin_of_bytes)
            else:
                await self._from_sources(layer, origin_of_bytes)
            layer.phase = "installing"
            with trio.CancelScope(shield=True):
                await self._commit(layer)
        except trio.Cancelled:
            if not stopping():
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._drop_partial, layer)
            raise
        except ImgstoreError as error:
            spoiled = isinstance(error, _SPOILED)
            log.warning("not installed", uuid=layer.uuid, error=error.message, code=error.code, dropped=spoiled)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._drop_all if spoiled else self._drop_partial, layer)
            return error
        log.info("installed", uuid=layer.uuid, pool=layer.pool)
        return None
