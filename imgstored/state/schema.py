"""The schema of the state folder, and the migrations between versions. One number for the whole folder.

It is written in the file `version`, so that a newer folder is refused, with the version that wrote it, before
anything in it is touched; and in each database (`PRAGMA user_version`), where a step's change and its
number are one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

#: Raised with every change of what is in the folder that an older daemon would not understand.
SCHEMA = 4

JOURNAL, HISTORY, EVENTS = "journal.sqlite", "history.sqlite", "events.sqlite"


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


def schema_of(db: sqlite3.Connection) -> int:
    """0 is a new database. Raises `sqlite3.Error` for what is none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def take_steps(db: sqlite3.Connection, name: str, found: int) -> None:
    """Brings a database of schema `found` up to date. Raises `sqlite3.Error`.

    One transaction a step, so that a daemon that is killed in between has lost nothing.
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
