"""The journal: which imports are wanted, and which ranges of their files are there. It survives the daemon.

SQLite in WAL mode. Which imports are wanted survives a power cut: one that ended must not bring back an image
that was deleted since. The other commits are not fsynced: the last few may be missing, and the daemon fetches
those ranges again. It trusts a range only while its bytes still have the fingerprint in the journal.

If the disk is full or fails, a daemon starts without its journal: `fault` has the reason, all calls raise it,
and `open` may be tried again.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from imgstored.errors import NoSpaceError, PoolError
from imgstored.hashing import Fingerprint
from imgstored.imports.spec import ImportSpec
from imgstored.manifest.values import UUID
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.database import Layout, Row, Table, failure, fault_of, open_database
from imgstored.transfer.range_journal import Spooled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: The tables of a new journal. Migrations of older ones are in `imgstored.state.schema`.
_TABLES = """
CREATE TABLE imports (
    pool TEXT NOT NULL, uuid TEXT NOT NULL,
    manifest TEXT NOT NULL,             -- v2, JSON
    sources TEXT,                       -- JSON array of URLs instead of the configured ones, or NULL
    channel TEXT,
    wanted INTEGER NOT NULL,            -- 1: goes on by itself after a restart; 0: waits for a request
    started_at REAL NOT NULL,           -- seconds since the epoch
    touched_at REAL NOT NULL,
    zstream INTEGER NOT NULL DEFAULT 0, -- 1: the file is not compared with the manifest
    needed INTEGER NOT NULL DEFAULT 0,  -- bytes of its pool that it needs at least, as an earlier try showed
    PRIMARY KEY (pool, uuid)
) WITHOUT ROWID;
CREATE TABLE spools (
    uuid TEXT PRIMARY KEY, size INTEGER NOT NULL, range_size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE ranges (
    uuid TEXT NOT NULL, idx INTEGER NOT NULL,
    algorithm TEXT NOT NULL, digest BLOB NOT NULL, -- as in imgstored.hashing
    PRIMARY KEY (uuid, idx)
) WITHOUT ROWID;
CREATE TABLE validators (
    uuid TEXT NOT NULL, url TEXT NOT NULL, validator TEXT NOT NULL, PRIMARY KEY (uuid, url)
) WITHOUT ROWID;
"""

log = structlog.get_logger(__name__)

#: Names of pools, as in the configuration and in imgadm.
_POOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
_NOTHING: Final = type(None)

_IMPORT: Final = {
    "pool": (str,),
    "uuid": (str,),
    "manifest": (str,),
    "sources": (str, _NOTHING),
    "channel": (str, _NOTHING),
    "wanted": (int,),
    "started_at": (int, float),
    "touched_at": (int, float),
    "zstream": (int,),
    "needed": (int,),
}
_SPOOL: Final = {"uuid": (str,), "size": (int,), "range_size": (int,)}
_RANGE: Final = {"uuid": (str,), "idx": (int,), "algorithm": (str,), "digest": (bytes,)}
_VALIDATOR: Final = {"uuid": (str,), "url": (str,), "validator": (str,)}


def _fault_of_import(row: Row) -> str | None:
    why = fault_of(row, _IMPORT)
    if why is not None:
        return why
    if not UUID.fullmatch(row["uuid"]) or not _POOL.fullmatch(row["pool"]):
        return "it names no image, or no pool"
    if not all(0 <= row[time] < math.inf for time in ("started_at", "touched_at")) or row["needed"] < 0:
        return "it has an impossible number"
    try:
        manifest = json.loads(row["manifest"])
        sources = [] if row["sources"] is None else json.loads(row["sources"])
    except (ValueError, RecursionError) as error:
        return f"its manifest or its sources are not JSON: {error}"
    if not isinstance(manifest, dict):
        return "its manifest is not an object"
    if not isinstance(sources, list) or not all(isinstance(url, str) for url in sources):
        return "its sources are not a list of URLs"
    return None


def _fault_of_spool(row: Row) -> str | None:
    why = fault_of(row, _SPOOL)
    return why or (None if row["size"] >= 0 and row["range_size"] > 0 else "it has an impossible number")


def _fault_of_range(row: Row) -> str | None:
    why = fault_of(row, _RANGE)
    return why or (None if row["idx"] >= 0 else "it has an impossible number")


_DOWNLOADED: Final = "that part is downloaded again"

LAYOUT: Final = Layout(
    _TABLES,
    {
        "imports": Table(
            ("pool", "uuid"),
            lambda row: f"the import of image {str(row.get('uuid'))[:40]}",
            "it begins anew when somebody asks for the image",
            _fault_of_import,
        ),
        "spools": Table(
            ("uuid",),
            lambda row: f"the download {str(row.get('uuid'))[:80]}",
            "it begins anew",
            _fault_of_spool,
        ),
        "ranges": Table(
            ("uuid", "idx"),
            lambda row: f"a range of {str(row.get('uuid'))[:80]}",
            _DOWNLOADED,
            _fault_of_range,
        ),
        "validators": Table(
            ("uuid", "url"),
            lambda row: f"a validator of {str(row.get('uuid'))[:80]}",
            _DOWNLOADED,
            lambda row: fault_of(row, _VALIDATOR),
        ),
    },
    lost="unfinished imports begin anew when somebody asks for them",
)


class UnfinishedImport(Struct, frozen=True):
    """A row of the journal: an import that did not end."""

    spec: ImportSpec
    wanted: bool  #: goes on by itself after a restart
    touched_at: float  #: when a client asked for it, or left it, in seconds since the epoch
    name: str  #: of the image, as its manifest has it
    version: str


class Journal:
    """The record of unfinished work. Safe to call from any thread; every call is short."""

    def __init__(self, path: Path, aside: Aside | None = None) -> None:
        """Opens or creates the journal, or brings an older one up to date. Damaged parts go to `aside`.

        Raises `ConfigError` if a newer daemon has written it, or this user may not open it.
        """
        self._path = path
        self._aside = aside or Aside(path.parent / DAMAGED)
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self.fault: NoSpaceError | PoolError | None = None  #: why it is not open
        self.open()

    def open(self) -> bool:
        """Opens the journal unless it is open; returns True if it is open then. Raises as the constructor."""
        with self._lock:
            if self._db is not None:
                return True
            try:
                self._db = open_database(self._path, LAYOUT, self._aside)
            except PoolError as error:
                if self.fault is None or self.fault.message != error.message:
                    log.error("imports wait for the journal", error=error.message, hint=error.hint)
                self.fault = error
                return False
            self.fault = None
            return True

    def close(self) -> None:
        """Closes the file, which has everything that was committed."""
        with self._lock:
            if self._db is not None:
                self._db.close()

    # -- imports ---------------------------------------------------------------------------------------------

    def begin(self, spec: ImportSpec, manifest: Mapping[str, Any]) -> None:
        """Writes down that an import is wanted. A row of an earlier try becomes wanted again."""
        now = time.time()
        sources = None if spec.sources is None else json.dumps(list(spec.sources))
        document = json.dumps(dict(manifest))
        with self.transaction(durable=True) as db:
            db.execute(
                "INSERT INTO imports VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, 0)"
                " ON CONFLICT (pool, uuid) DO UPDATE SET manifest = excluded.manifest,"
                " sources = excluded.sources, channel = excluded.channel, zstream = excluded.zstream,"
                " wanted = 1, touched_at = excluded.touched_at",
                (spec.pool, spec.uuid, document, sources, spec.channel, now, now, spec.zstream),
            )

    def park(self, pool: str, uuid: str) -> None:
        """Marks an import as not wanted. The next try uses what was downloaded."""
        with self.transaction(durable=True) as db:
            db.execute(
                "UPDATE imports SET wanted = 0, touched_at = ? WHERE pool = ? AND uuid = ?",
                (time.time(), pool, uuid),
            )

    def found_needed(self, pool: str, uuid: str, needed: int) -> None:
        """Writes down how many bytes an image needs at least in its pool, if its import has a row."""
        with self.transaction() as db:
            db.execute(
                "UPDATE imports SET needed = max(needed, ?) WHERE pool = ? AND uuid = ?", (needed, pool, uuid)
            )

    def needed(self, pool: str, uuid: str) -> int:
        """The bytes that an image needs at least in its pool, as an earlier try showed; 0 if none did."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT needed FROM imports WHERE pool = ? AND uuid = ?", (pool, uuid)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def end(self, pool: str, uuid: str) -> None:
        """Removes an import that is installed or given up."""
        with self.transaction(durable=True) as db:
            db.execute("DELETE FROM imports WHERE pool = ? AND uuid = ?", (pool, uuid))

    def imports(self) -> list[UnfinishedImport]:
        """All unfinished imports, oldest first."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT pool, uuid, sources, channel, zstream, wanted, touched_at, manifest"
                " FROM imports ORDER BY started_at, uuid"
            ).fetchall()
        return [_unfinished(*row) for row in rows]

    # -- ranges ----------------------------------------------------------------------------------------------

    def ranges(self, name: str) -> FileRanges:
        """The part of the journal about one file; `name` is that of its spool."""
        return FileRanges(self, name)

    def spooled(self) -> set[str]:
        """The names of the spools that the journal knows."""
        with self.transaction() as db:
            return {row[0] for row in db.execute("SELECT uuid FROM spools")}

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Commits all changes of the block, or none; a `durable` commit survives a power cut.

        Raises `NoSpaceError`, or `PoolError` for a bad disk.
        """
        with self._lock:
            if self._db is None:
                raise self.not_open()
            try:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    # SQLite has rolled back by itself after some errors of the disk.
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise failure(error, self._path) from error

    def not_open(self) -> PoolError:
        """The error for callers while the journal is not open."""
        fault = self.fault or PoolError("the journal is closed")
        return fault.__class__(
            f"imports wait for the journal: {fault.message}",
            hint=f"{fault.hint}; they go on by themselves then",
        )


class FileRanges:
    """The ranges of one file; the download's `RangeJournal`."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    def load(self) -> Spooled | None:
        """Reads the file's rows; None if there are none."""
        with self._journal.transaction() as db:
            head = db.execute("SELECT size, range_size FROM spools WHERE uuid = ?", (self._name,)).fetchone()
            if head is None:
                return None
            ranges = db.execute(
                "SELECT idx, algorithm, digest FROM ranges WHERE uuid = ?", (self._name,)
            ).fetchall()
            validators = db.execute(
                "SELECT url, validator FROM validators WHERE uuid = ?", (self._name,)
            ).fetchall()
        fingerprints = {index: Fingerprint(algorithm, digest) for index, algorithm, digest in ranges}
        return Spooled(head[0], head[1], fingerprints, dict(validators))

    def begin(self, size: int, range_size: int) -> None:
        """Starts again with a file of `size` bytes in ranges of `range_size`."""
        with self._journal.transaction() as db:
            self._delete(db)
            db.execute("INSERT INTO spools VALUES (?, ?, ?)", (self._name, size, range_size))

    def record(self, index: int, fingerprint: Fingerprint) -> None:
        """Records that range `index` is in the spool, and its fingerprint."""
        with self._journal.transaction() as db:
            db.execute("INSERT OR REPLACE INTO ranges VALUES (?, ?, ?, ?)", (self._name, index, *fingerprint))

    def remember(self, url: str, validator: str) -> None:
        """Records the validator of this state of the file (an ETag or a date) at the server of `url`."""
        with self._journal.transaction() as db:
            db.execute("INSERT OR REPLACE INTO validators VALUES (?, ?, ?)", (self._name, url, validator))

    def forget(self) -> None:
        """Deletes the file's rows: nothing of the file is there any more."""
        with self._journal.transaction() as db:
            self._delete(db)

    def _delete(self, db: sqlite3.Connection) -> None:
        for table in ("spools", "ranges", "validators"):
            db.execute(f"DELETE FROM {table} WHERE uuid = ?", (self._name,))  # noqa: S608  fixed names


def _unfinished(
    pool: str,
    uuid: str,
    sources: str | None,
    channel: str | None,
    zstream: int,
    wanted: int,
    touched_at: float,
    manifest: str,
) -> UnfinishedImport:
    replaced = None if sources is None else tuple(json.loads(sources))
    spec = ImportSpec(uuid, pool, replaced, channel, bool(zstream))
    document = json.loads(manifest)
    name, version = (str(document.get(key, "")) for key in ("name", "version"))
    return UnfinishedImport(spec, bool(wanted), touched_at, name, version)
