"""The schema of the state folder, its migrations, and the file `version`. One number for the whole folder.

The number is in the file `version`, so that an older daemon refuses a newer folder before it changes anything
there, and can name the version that wrote it. The file has a checksum, so that a damaged file does not look
like that of a newer imgstored. The number is also in each database (`PRAGMA user_version`), where the change
of a step and its number are one transaction. All calls block.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from msgspec import Struct

from imgstored import __version__
from imgstored.host.filesystem import replace_file

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

#: Rises with every change of the folder that an older daemon would not understand.
SCHEMA = 4

JOURNAL, HISTORY, EVENTS = "journal.sqlite", "history.sqlite", "events.sqlite"


class Step(NamedTuple):
    """The migration of a database to `schema` from the one before, within the caller's transaction."""

    schema: int
    database: str
    change: Callable[[sqlite3.Connection], None]


def _imports_have_ids(db: sqlite3.Connection) -> None:
    """Since schema 2 the history has the id of an import, as the lines of the log have."""
    db.execute("ALTER TABLE history ADD COLUMN import_id TEXT")


def _streams_are_remembered(db: sqlite3.Connection) -> None:
    """Since schema 2 an import with --zstream goes on as one after a restart."""
    db.execute("ALTER TABLE imports ADD COLUMN zstream INTEGER NOT NULL DEFAULT 0")


def _hashes_have_names(db: sqlite3.Connection) -> None:
    """Since schema 3 the hash of a range has the name of its algorithm, which may not be BLAKE3."""
    db.execute("ALTER TABLE ranges RENAME TO older")
    db.execute(
        "CREATE TABLE ranges (uuid TEXT NOT NULL, idx INTEGER NOT NULL, algorithm TEXT NOT NULL,"
        " digest BLOB NOT NULL, PRIMARY KEY (uuid, idx)) WITHOUT ROWID"
    )
    db.execute("INSERT INTO ranges SELECT uuid, idx, 'blake3', blake3 FROM older")
    db.execute("DROP TABLE older")


def _shortages_are_remembered(db: sqlite3.Connection) -> None:
    """Since schema 4 the journal knows how many bytes an image needs of a pool that had no room for it."""
    db.execute("ALTER TABLE imports ADD COLUMN needed INTEGER NOT NULL DEFAULT 0")


#: In the order of their execution.
STEPS = (
    Step(2, HISTORY, _imports_have_ids),
    Step(2, JOURNAL, _streams_are_remembered),
    Step(3, JOURNAL, _hashes_have_names),
    Step(4, JOURNAL, _shortages_are_remembered),
)


def schema_of(db: sqlite3.Connection) -> int:
    """The schema of an open database; 0 for a new one. Raises `sqlite3.Error` if it is not a database."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def take_steps(db: sqlite3.Connection, name: str, found: int) -> None:
    """Brings a database of schema `found` up to date. Raises `sqlite3.Error`.

    Each step is one transaction, so a daemon that is killed in between loses nothing.
    """
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


log = structlog.get_logger(__name__)

VERSION: Final = "version"
#: The file has some eighty bytes.
_MAX_SIZE: Final = 4096


class Version(Struct, frozen=True):
    """The contents of the file; schema 0 if it cannot be read: then the databases have the number."""

    schema: int
    maker: str
    checked: bool  #: whether the file has a checksum; older files have none


def read_version(state: Path) -> Version:
    """Reads the file. Never raises."""
    path = state / VERSION
    try:
        # Non-blocking, so that a FIFO in its place does not hang the daemon.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return Version(0, "", checked=False)
            return _parsed(file.read(_MAX_SIZE))
    except FileNotFoundError:
        return Version(0, "", checked=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("the state folder does not say of which version it is", path=str(path), error=str(error))
        return Version(0, "", checked=False)


def _parsed(content: bytes) -> Version:
    """Raises `ValueError`, `KeyError`, `TypeError`, `AttributeError`, `RecursionError` for a damaged file."""
    found = json.loads(content)
    schema, maker, check = found["schema"], str(found["imgstored"]), found.get("check")
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"its schema is {str(schema)[:20]}")
    if check is not None and check != _check(schema, maker):
        raise ValueError("its checksum does not match")
    return Version(schema, maker, check is not None)


def write_version(state: Path) -> None:
    """Writes the version of this imgstored, unless it is there already. Raises `OSError`."""
    if read_version(state) != Version(SCHEMA, __version__, checked=True):
        content = {"schema": SCHEMA, "imgstored": __version__, "check": _check(SCHEMA, __version__)}
        replace_file(state / VERSION, (json.dumps(content) + "\n").encode(), mode=0o600)


def _check(schema: int, maker: str) -> str:
    return f"{zlib.crc32(f'{schema} {maker}'.encode(errors='replace')):08x}"
