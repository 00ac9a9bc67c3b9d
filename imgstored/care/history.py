"""What was done on this host: who imported or deleted which image, when, from where, and how it ended.

SQLite in WAL mode, beside the journal, and bounded. A row is written when something begins and finished when
it ends; rows that a daemon left unfinished are `interrupted` for the next one. What goes wrong here is logged
and keeps nothing else from happening.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
import trio
from imgproto.documents import EntryDocument

from imgstored.care.names import Named
from imgstored.errors import CancelledError, ImgstoreError
from imgstored.http.location import shown
from imgstored.http.secrets import redacted
from imgstored.state.schema import open_database
from imgstored.store.recorder import asker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.store.layer import Layer
    from imgstored.store.recorder import Wanted

log = structlog.get_logger(__name__)

Outcome = Literal["installed", "deleted", "done", "failed", "cancelled", "interrupted"]

#: Rows that are kept: the newest.
MAX_ROWS = 10_000

#: Characters of an error's message that are kept.
_MAX_MESSAGE = 2000

#: Of a new file; what makes one of it that is older says `imgstored.state.schema`.
_TABLE = """
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,               -- import, install, delete, ...
    uuid TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    pool TEXT NOT NULL,
    source TEXT,                        -- a URL without secrets; NULL for a local file
    client TEXT NOT NULL, uid INTEGER,  -- NULL: the daemon itself
    started_at REAL NOT NULL,           -- seconds since the epoch
    bytes INTEGER,                      -- of the image's file
    seconds REAL,                       -- that it took; NULL: not ended, or interrupted
    outcome TEXT,                       -- NULL: not ended
    code TEXT, message TEXT,            -- of the error
    import_id TEXT                      -- in every line that the log has of it
);
CREATE INDEX history_uuid ON history (uuid);
"""

#: The columns that an entry shows.
_FIELDS = tuple(EntryDocument.__annotations__)


@dataclass(frozen=True, slots=True)
class Begun:
    """What is to be written down of something that begins."""

    action: str
    uuid: str
    name: str
    version: str
    pool: str
    source: str | None = None
    import_id: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended."""

    outcome: Outcome
    bytes: int | None = None
    error: ImgstoreError | None = None


class History:
    """The file. Methods are called from trio's thread; threads do what blocks, one at a time."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file, or brings an older one up to date. Raises `ConfigError`."""
        hint = "move the file away: what was done before is then forgotten"
        # What an earlier daemon did not see end.
        interrupted = "UPDATE history SET outcome = 'interrupted' WHERE outcome IS NULL"
        self._db = open_database(path, _TABLE, hint=hint, then=interrupted)
        # Fair: who reads after something has ended finds that written down.
        self._lock = trio.Lock()

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    # -- writing ---------------------------------------------------------------------------------------------

    async def follow(self, layer: Layer, *, from_file: bool, stopping: Callable[[], bool]) -> None:
        """Writes down that a layer has begun, and how it ends. Cannot be cancelled: every layer ends."""
        with trio.CancelScope(shield=True):
            client = asker.get()
            began = time.monotonic()
            row = await self._begin(
                Begun(
                    "install" if from_file else "import",
                    layer.uuid,
                    layer.manifest.name,
                    layer.manifest.version,
                    layer.pool,
                    layer.source,
                    layer.import_id,
                ),
                client.name if client is not None else ", ".join(layer.clients),
                None if client is None else client.uid,
            )
            await layer.finished.wait()
            error = layer.error
            outcome = _outcome("installed", error)
            if outcome == "cancelled" and stopping():
                outcome = "interrupted"
            await self._end(row, Ended(outcome, layer.done(), error), time.monotonic() - began)

    @asynccontextmanager
    async def deletion(self, image: InstalledImage) -> AsyncIterator[None]:
        """Writes down that an image is being deleted, and how the block ends."""
        began = Begun("delete", image.uuid, image.text("name"), image.text("version"), image.pool)
        async with self.doing(began, "deleted"):
            yield

    async def refused(self, wanted: Wanted, error: ImgstoreError) -> None:
        """Writes down what a client wanted, and why it did not even begin."""
        client = asker.get()
        name, uid = ("imgstored", None) if client is None else (client.name, client.uid)
        about = wanted.import_id
        begun = Begun(wanted.action, wanted.uuid, wanted.name, wanted.version, wanted.pool, import_id=about)
        row = await self._begin(begun, name, uid)
        await self._end(row, Ended(_outcome("installed", error), error=error), 0.0)

    @asynccontextmanager
    async def doing(self, begun: Begun, success: Outcome = "done") -> AsyncIterator[None]:
        """Writes down that something is being done, and how the block ends."""
        client = asker.get()
        name, uid = ("imgstored", None) if client is None else (client.name, client.uid)
        row, began = await self._begin(begun, name, uid), time.monotonic()
        error: ImgstoreError | None = CancelledError("it was interrupted")
        try:
            yield
            error = None
        except ImgstoreError as raised:
            error = raised
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._end(row, Ended(_outcome(success, error), error=error), time.monotonic() - began)

    async def _begin(self, begun: Begun, client: str, uid: int | None) -> int | None:
        """The row's number; None where it could not be written."""
        source = None if begun.source is None else shown(begun.source)
        values = (begun.action, begun.uuid, begun.name, begun.version, begun.pool, source, client, uid)

        def write() -> int:
            columns = ", ".join((*_FIELDS[:9], "import_id"))
            added = self._db.execute(
                f"INSERT INTO history ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  fixed
                (*values, time.time(), begun.import_id),
            )
            row = added.lastrowid or 0
            self._db.execute("DELETE FROM history WHERE id <= ?", (row - MAX_ROWS,))
            return row

        return await self._written(write)

    async def _end(self, row: int | None, ended: Ended, seconds: float) -> None:
        error = ended.error
        code = None if error is None else error.code
        message = None if error is None else redacted(error.message)[:_MAX_MESSAGE]

        def write() -> int:
            self._db.execute(
                "UPDATE history SET outcome = ?, bytes = ?, seconds = ?, code = ?, message = ? WHERE id = ?",
                (ended.outcome, ended.bytes, round(seconds, 3), code, message, row),
            )
            return 0

        if row is not None:
            await self._written(write)

    async def _written(self, write: Callable[[], int]) -> int | None:
        async with self._lock:
            try:
                return await trio.to_thread.run_sync(write)
            except sqlite3.Error as error:
                log.warning("the history cannot be written", error=str(error))
                return None

    # -- reading ---------------------------------------------------------------------------------------------

    async def entries(self, uuid: str | None, limit: int) -> list[EntryDocument]:
        """The newest `limit` entries, of one image or of all, oldest first; docs/protocol.md's *entry*."""
        where, values = ("", ()) if uuid is None else ("WHERE uuid = ?", (uuid,))

        def read() -> list[tuple[Any, ...]]:
            return self._db.execute(
                f"SELECT {', '.join(_FIELDS)} FROM history {where} ORDER BY id DESC LIMIT ?",  # noqa: S608  fixed
                (*values, max(0, min(limit, MAX_ROWS))),
            ).fetchall()

        rows = await self._read(read)
        return [_entry(row) for row in reversed(rows)]

    async def failures(self, limit: int) -> list[EntryDocument]:
        """The newest entries of what failed, at most `limit`, oldest first."""

        def read() -> list[tuple[Any, ...]]:
            return self._db.execute(
                f"SELECT {', '.join(_FIELDS)} FROM history"  # noqa: S608  fixed
                " WHERE outcome = 'failed' ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()

        return [_entry(row) for row in reversed(await self._read(read))]

    async def images(self) -> list[Named]:
        """The images that the history is about, with the names that they had last."""

        def read() -> list[tuple[Any, ...]]:
            return self._db.execute(
                "SELECT uuid, name, version FROM history WHERE id IN (SELECT"
                " coalesce(max(CASE WHEN name != '' THEN id END), max(id)) FROM history GROUP BY uuid)"
            ).fetchall()

        return [Named(*row) for row in await self._read(read)]

    async def _read(self, read: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        async with self._lock:
            try:
                return await trio.to_thread.run_sync(read)
            except sqlite3.Error as error:
                log.warning("the history cannot be read", error=str(error))
                return []


def _entry(row: tuple[Any, ...]) -> EntryDocument:
    """The row of a query for `_FIELDS`."""
    return cast("EntryDocument", dict(zip(_FIELDS, row, strict=True)))


def _outcome(success: Outcome, error: ImgstoreError | None) -> Outcome:
    if error is None:
        return success
    return "cancelled" if isinstance(error, CancelledError) else "failed"
