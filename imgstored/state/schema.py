"""The schema of the state folder, and the migrations between versions. One number for the whole folder.

It is written in the file `version`, so that a newer folder is refused, with the version that wrote it, before
anything in it is touched; and in each database (`PRAGMA user_version`), where a step's change and its
number are one transaction.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from imgstored.errors import ConfigError
from imgstored.host import shortage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Raised with every change of what is in the folder that an older daemon would not understand.
SCHEMA = 4

JOURNAL, HISTORY = "journal.sqlite", "history.sqlite"


class Step(NamedTuple):
    """The migration of a database to `schema` from the one before, within the caller's transaction."""

    schema: int
    database: str
    change: Callable[[sqlite3.Connection], None]


def _imports_have_ids(db: sqlite3.Connection) -> None:
    """Lines of the log have an import's id since then, and so has what was done."""
    db.execute("ALTER TABLE history ADD COLUMN import_id TEXT")


def _streams_are_remembered(db: sqlite3.Connection) -> None:
    """An import that was asked for with --zstream goes on as one since then."""
    db.execute("ALTER TABLE imports ADD COLUMN zstream INTEGER NOT NULL DEFAULT 0")


def _hashes_have_names(db: sqlite3.Connection) -> None:
    """Ranges may be hashed by another algorithm than BLAKE3 since then."""
    db.execute("ALTER TABLE ranges RENAME TO older")
    db.execute(
        "CREATE TABLE ranges (uuid TEXT NOT NULL, idx INTEGER NOT NULL, algorithm TEXT NOT NULL,"
        " digest BLOB NOT NULL, PRIMARY KEY (uuid, idx)) WITHOUT ROWID"
    )
    db.execute("INSERT INTO ranges SELECT uuid, idx, 'blake3', blake3 FROM older")
    db.execute("DROP TABLE older")


def _shortages_are_remembered(db: sqlite3.Connection) -> None:
    """What an image took of a pool that had no room for it is known since then."""
    db.execute("ALTER TABLE imports ADD COLUMN needed INTEGER NOT NULL DEFAULT 0")


#: In the order in which they are taken.
STEPS = (
    Step(2, HISTORY, _imports_have_ids),
    Step(2, JOURNAL, _streams_are_remembered),
    Step(3, JOURNAL, _hashes_have_names),
    Step(4, JOURNAL, _shortages_are_remembered),
)


#: Bytes that SQLite needs to open a database: the index of its write-ahead log has pieces of 32 KiB. With
#: less it may also say "disk I/O error" (https://www.sqlite.org/walformat.html, "The WAL-Index File Format").
_LEAST_ROOM = 128 << 10


def open_database(path: Path, tables: str, *, hint: str, then: str = "") -> sqlite3.Connection:
    """Opens a database of today's schema, for any thread, or creates it, or brings an older one up to date.

    `tables` are the statements for a new one, and `then` is done each time. `hint` says what is lost by
    moving it away. Raises `ConfigError`.
    """
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            _prepare(db, path, tables)
            db.execute(then)
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as error:
        cause = shortage.cause(path)
        if cause or _is_full(error) or shortage.free_bytes(path) < _LEAST_ROOM:
            # SQLite has several words for it; and it may pass, so that a later start helps.
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            hint = "free space on its file system"
            raise ConfigError(f"{path} cannot be used: {error}{cause}", hint=hint) from full
        raise ConfigError(f"{path} cannot be used: {error}", hint=hint) from error
    return db


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return shortage.is_full(error)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL


def _prepare(db: sqlite3.Connection, path: Path, tables: str) -> None:
    """Makes a database that was just opened one of today's schema.

    Raises `ConfigError` for one of a newer daemon, which stays as it is, and `sqlite3.Error`.
    """
    found = schema_of(db)
    if found > SCHEMA:
        raise ConfigError(
            f"{path} is of a newer imgstored (schema {found}, this one knows {SCHEMA})",
            hint="start the newer imgstored; or give this one another `state` in its configuration",
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if found == 0:
        db.executescript(f"BEGIN; {tables} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif found < SCHEMA:
        _take_steps(db, path.name, found)


def schema_of(db: sqlite3.Connection) -> int:
    """0 is a new database. Raises `sqlite3.Error` for what is none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _take_steps(db: sqlite3.Connection, name: str, found: int) -> None:
    """One transaction a step, so that a daemon that is killed in between has lost nothing."""
    for schema in range(found + 1, SCHEMA + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for step in STEPS:
                if (step.schema, step.database) == (schema, name):
                    step.change(db)
            db.execute(f"PRAGMA user_version = {schema}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
