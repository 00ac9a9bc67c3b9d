"""The databases of the state folder, which open even if they are damaged. All calls block.

A damaged database is set aside, and its readable rows go into a new one. A damaged row is set aside, and the
others stay. A full or failing disk may recover: whoever opens the database tries again.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import ConfigError, NoSpaceError, PoolError
from imgstored.host import shortage
from imgstored.state.damage import PARTS, Aside
from imgstored.state.schema import SCHEMA, read_version, schema_of, take_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Values of one row by column.
Row = Mapping[str, Any]

#: Stands for a missing value.
_MISSING: Final = object()
#: Rows of one table that are read from a damaged database.
_MAX_SALVAGED: Final = 200_000

#: Bytes that SQLite needs to open a database: the index of its write-ahead log has pieces of 32 KiB. With
#: less it may also say "disk I/O error" (https://www.sqlite.org/walformat.html, "The WAL-Index File Format").
_LEAST_ROOM: Final = 128 << 10

#: Errors of SQLite about the disk, the memory or permissions, and not about the content of a database.
_NO_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class Table(Struct, frozen=True):
    """A table whose rows can be damaged one by one."""

    key: tuple[str, ...]
    named: Callable[[Row], str]  #: what a row is, for people
    lost: str  #: the effect of the loss of a row
    fault: Callable[[Row], str | None]  #: why a row cannot be used; None if it can
    suspects: str = "1"  #: SQL: which rows to look at when the database is opened


class Layout(Struct, frozen=True):
    """The contents of a database."""

    create: str  #: SQL that creates a database of the current schema
    tables: Mapping[str, Table]
    lost: str  #: the effect of the loss of the database
    then: str = ""  #: SQL that runs each time the database is opened


class _DamagedError(sqlite3.DatabaseError):
    """The database can be read, but its content is wrong."""


def open_database(path: Path, layout: Layout, aside: Aside) -> sqlite3.Connection:
    """Opens a database of the current schema, for any thread; creates it, or brings an older one up to date.

    Damaged parts go to `aside`. Raises `NoSpaceError` or `PoolError` if the disk is full or fails, which may
    pass, and `ConfigError` if a newer daemon has written it, or this user may not open it.
    """
    try:
        for ending in PARTS:
            part = path.with_name(path.name + ending)
            if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):
                aside.move(part, "it is not a regular file", lost=layout.lost)
        try:
            return _opened(path, layout, aside, {})
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            rows = _salvaged(path, layout)
            aside.move(path, str(error), lost=f"{layout.lost}, except for what could be read")
        return _opened(path, layout, aside, rows)
    except (sqlite3.Error, OSError) as error:
        raise failure(error, path) from error


def connect_again(path: Path) -> sqlite3.Connection:
    """One more connection to a database that is open, for any thread. Raises as `open_database` does."""
    try:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    except sqlite3.Error as error:
        raise failure(error, path) from error
    db.text_factory = _lenient
    return db


def _lenient(raw: bytes) -> str:
    """Text of an open database. A failing disk may return text that is not UTF-8: no reason to fail, too."""
    return raw.decode(errors="replace")


def failure(error: sqlite3.Error | OSError, path: Path) -> ConfigError | NoSpaceError | PoolError:
    """The error for a database that cannot be opened, read or written."""
    # Without free inodes SQLite cannot create its other files of the database, and reports something else.
    cause = shortage.cause(path)
    if cause or _is_full(error) or shortage.free_bytes(path) < _LEAST_ROOM:
        return NoSpaceError(
            f"there is no room left for {path}{cause}",
            hint="free space on its file system, for example with `imgctl delete`",
        )
    if isinstance(error, PermissionError):
        return ConfigError(
            f"{path} cannot be used: {shortage.why(error)}",
            hint="start imgstored as the user who started it before, or name another `state`",
        )
    return PoolError(f"{path} cannot be used: {error}", hint="check the disk of the daemon's state folder")


def is_damage(error: sqlite3.Error) -> bool:
    """True if the error is about the content of the database."""
    code = getattr(error, "sqlite_errorcode", None)  # an error of Python itself has none
    return code is None or code & 0xFF not in _NO_DAMAGE


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return shortage.is_full(error)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _opened(
    path: Path, layout: Layout, aside: Aside, rows: Mapping[str, list[dict[str, Any]]]
) -> sqlite3.Connection:
    """Opens a database, and adds rows. Raises `sqlite3.Error`, `OSError`; `ConfigError` for a newer one."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        try:
            _prepare(db, path, layout)
        except UnicodeDecodeError as error:
            # SQLite's message quotes the damaged bytes, which Python cannot decode.
            raise _DamagedError("it is damaged, and SQLite's message cannot be decoded") from error
        for name, salvaged in rows.items():
            _replace(db, layout, name, salvaged, aside)
        for name, table in layout.tables.items():
            _mend(db, layout, name, table, aside)
        db.execute(layout.then)
        db.text_factory = _lenient
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path, layout: Layout) -> None:
    """Brings a database that was just opened to the current schema."""
    found = schema_of(db)
    if found > SCHEMA:
        if 0 < read_version(path.parent).schema <= SCHEMA:
            raise _DamagedError(f"it says that it is of schema {found}, and its folder is not")
        raise ConfigError(
            f"{path} is of a newer imgstored (schema {found}, this one knows {SCHEMA})",
            hint="start the newer imgstored; or give this one another `state` in its configuration",
        )
    if found < 0:
        raise _DamagedError(f"its schema is {found}")
    if found:
        # Before anything is written, so that a damaged database is set aside as it was found.
        checked = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if checked != "ok":
            raise _DamagedError(checked)
        _check_writable(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if found == 0:
        db.executescript(f"BEGIN; {layout.create} PRAGMA user_version = {SCHEMA}; COMMIT;")
        return
    if found < SCHEMA:
        take_steps(db, path.name, found)
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(layout.create)
        for name in layout.tables:
            if _columns(db, name) != _columns(new, name):
                raise _DamagedError(f"its table {name} has other columns")


def _check_writable(db: sqlite3.Connection) -> None:
    """Raises `_DamagedError` if a byte of the file's head says that only a newer SQLite may write it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(f"PRAGMA user_version = {schema_of(db)}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        # The file itself may be written: `_opened` has just done so.
        raise _DamagedError("it says that it must not be written") from error
    finally:
        db.execute("ROLLBACK")


def _columns(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Name, type, NOT NULL, and place in the key of each column; empty if there is no such table."""
    found = db.execute(f"PRAGMA table_info({table})").fetchall()
    return [(name, kind, notnull, key) for _, name, kind, notnull, _, key in found]


# -- rows ----------------------------------------------------------------------------------------------------


def _mend(db: sqlite3.Connection, layout: Layout, name: str, table: Table, aside: Aside) -> None:
    """Sets damaged rows of a table aside."""
    if any(table.fault(row) is not None for row in _read(db, name, f"WHERE {table.suspects}")):
        _replace(db, layout, name, list(_read(db, name, "")), aside)


def _replace(
    db: sqlite3.Connection, layout: Layout, name: str, rows: list[dict[str, Any]], aside: Aside
) -> None:
    """Makes these the rows of a table, but for damaged ones, which are set aside.

    A damaged row cannot be deleted by its key: that may be what is damaged.
    """
    table, good = layout.tables[name], []
    for row in rows:
        why = table.fault(row)
        if why is None:
            good.append(row)
        else:
            aside.copy(f"{table.named(row)} in {name}", why, row, lost=table.lost)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(f"DELETE FROM {name}")  # noqa: S608  a fixed name, as below
        for row in good:
            columns, places = ", ".join(row), ", ".join("?" * len(row))
            with suppress(sqlite3.IntegrityError):  # an older schema's, or twice the same key
                db.execute(f"INSERT INTO {name} ({columns}) VALUES ({places})", tuple(row.values()))  # noqa: S608
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _read(db: sqlite3.Connection, name: str, which: str) -> Iterator[dict[str, Any]]:
    """Rows of a table. Text that is not UTF-8 has surrogates."""
    before = db.text_factory
    db.text_factory = lambda raw: raw.decode(errors="surrogateescape")
    try:
        cursor = db.execute(f"SELECT * FROM {name} {which}")  # noqa: S608  fixed names
        columns = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(columns, row, strict=True))
    finally:
        db.text_factory = before


def _salvaged(path: Path, layout: Layout) -> dict[str, list[dict[str, Any]]]:
    """The readable rows of a damaged database: each table from its beginning, and then from its end."""
    found: dict[str, list[dict[str, Any]]] = {}
    # SQLite's messages may quote damaged bytes, which Python cannot decode.
    unreadable = (sqlite3.Error, UnicodeDecodeError)
    with suppress(*unreadable, OSError), closing(sqlite3.connect(path)) as db, closing(_new(layout)) as new:
        # A damaged entry of the schema costs its own table.
        db.execute("PRAGMA writable_schema = ON")
        for name, table in layout.tables.items():
            wanted = _defaults(new, name)
            rows: dict[Any, dict[str, Any]] = {}
            for order in ("ASC", "DESC"):
                by = ", ".join(f"{column} {order}" for column in table.key)
                with suppress(*unreadable):
                    for row in _read(db, name, f"ORDER BY {by} LIMIT {_MAX_SALVAGED}"):
                        known = {column: row[column] for column in row if column in wanted}
                        rows[tuple(row.get(column) for column in table.key)] = {**wanted, **known}
            # A row of an older schema may lack a value that has no default.
            found[name] = [row for row in rows.values() if _MISSING not in row.values()]
    return found


def _defaults(new: sqlite3.Connection, table: str) -> dict[str, Any]:
    """The default of each column, for rows of an older schema, as the migrations would set it."""
    found = new.execute(f"PRAGMA table_info({table})").fetchall()
    return {
        name: new.execute(f"SELECT {default or 'NULL'}").fetchone()[0]
        if default is not None or not required
        else _MISSING
        for _, name, _, required, default, _ in found
    }


def _new(layout: Layout) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(layout.create)
    return db


# -- values --------------------------------------------------------------------------------------------------


def fault_of(row: Row, types: Mapping[str, tuple[type, ...]]) -> str | None:
    """The reason why a row's values do not have these types; None if they do. Text must be valid Unicode."""
    for column, allowed in types.items():
        value = row.get(column)
        if not isinstance(value, allowed):
            return f"its {column} is of another type"
        if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
            return f"its {column} is not valid text"
    return None


def suspects_of(types: Mapping[str, tuple[type, ...]]) -> str:
    """SQL: the rows whose values are not of these types."""
    names = {int: "integer", float: "real", str: "text", bytes: "blob", type(None): "null"}
    wrong = []
    for column, allowed in types.items():
        listed = ", ".join(f"'{names[each]}'" for each in allowed)
        wrong.append(f"typeof({column}) NOT IN ({listed})")
    return " OR ".join(wrong)
