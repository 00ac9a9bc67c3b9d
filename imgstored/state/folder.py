"""The state folder, for one daemon at a time. All calls block."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from imgstored import __version__
from imgstored.errors import ConfigError
from imgstored.host import filesystem, shortage
from imgstored.host.durable import replace_file
from imgstored.state.schema import HISTORY, JOURNAL, SCHEMA, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

_VERSION: Final = "version"
#: The file has some fifty bytes.
_MAX_VERSION: Final = 4096

_USE_ANOTHER: Final = "start imgstored as root, or name a folder of your own as `state` in its configuration"

#: What is lost with a database, for the log.
_LOST: Final = {
    JOURNAL: "unfinished imports begin anew when somebody asks for them",
    HISTORY: "`imgctl history` begins anew",
}

#: What a database that was damaged is called from then on, with the time and, if need be, a number.
ASIDE: Final = ".damaged-"


@contextmanager
def owned(state: Path, *, passable: bool = False) -> Iterator[Path]:
    """The state folder with its `spool`, for this process alone, and no newer than this daemon.

    `passable`: others get through it to what is theirs to read, and see nothing of it. Raises `ConfigError`
    where it cannot be that; a newer daemon's folder is then as it was.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(error, state) from error
    try:
        _take(lock, state)
        refuse_newer(state)
        try:
            if passable:
                state.chmod(stat.S_IMODE(state.stat().st_mode) | 0o011)
            (state / "spool").mkdir(mode=0o700, exist_ok=True)
            for name in (JOURNAL, HISTORY):
                _set_aside_if_damaged(state / name)
            _write_version(state)
        except OSError as error:
            raise _unusable(error, state) from error
        yield state
    finally:
        os.close(lock)


def _take(lock: int, state: Path) -> None:
    try:
        filesystem.try_flock(lock)
        # SQLite takes POSIX locks. Of file systems that lack them it says that the database is locked.
        with suppress(BlockingIOError):
            filesystem.try_lockf(lock)
    except BlockingIOError as error:
        raise ConfigError(
            f"state: another imgstored uses the folder {state}",
            hint="stop it first, or give this one another `state` (and `socket.path`, and `view.path`)",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"state: {state / 'lock'} cannot be locked: {shortage.why(error)}",
            hint=filesystem.LOCKS_HINT,
        ) from error


def refuse_newer(state: Path) -> None:
    """Raises `ConfigError` for a folder of a newer daemon."""
    schema, maker = _read_version(state)
    if schema > SCHEMA:
        raise ConfigError(
            f"state: the folder {state} was made by imgstored {maker} (schema {schema});"
            f" this is imgstored {__version__}, which knows schema {SCHEMA}",
            hint="start the newer imgstored; or give this one another `state` in its configuration",
        )


def _read_version(state: Path) -> tuple[int, str]:
    """Schema and imgstored's version; 0 where that is not written down, and the databases must tell."""
    path = state / _VERSION
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_VERSION))
        return int(found["schema"]), str(found["imgstored"])
    except FileNotFoundError:
        return 0, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the state folder does not say of which version it is", path=str(path), error=str(error))
        return 0, ""


def _write_version(state: Path) -> None:
    """Raises `OSError`. Before the databases are brought up to date: each has its own number, too."""
    if _read_version(state) != (SCHEMA, __version__):
        content = json.dumps({"schema": SCHEMA, "imgstored": __version__}) + "\n"
        replace_file(state / _VERSION, content.encode(), mode=0o600)


def _set_aside_if_damaged(path: Path) -> None:
    """Renames a broken database, and logs that. Raises `OSError`.

    The daemon starts: a host without images because of a list of what was not finished would be worse.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(
            f"state: {path} is no file",
            hint="imgstored keeps a database there; move the other file away",
        )
    why = _damage(path)
    if why is None:
        return
    aside = path.with_name(f"{path.name}{ASIDE}{int(time.time())}")
    while aside.exists():
        aside = aside.with_name(aside.name + "-2")
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    log.error(
        "a database was damaged, and is set aside",
        path=str(path),
        why=why,
        kept=str(aside),
        lost=_LOST[path.name],
    )


def _damage(path: Path) -> str | None:
    """The damage of a database; None if there is none, or it cannot be checked now."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            schema_of(db)
            if path.name == JOURNAL:  # which is small; the history is used while it answers
                found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
                return None if found == "ok" else found
    except sqlite3.OperationalError:
        return None  # the disk, or permissions: who opens it says so
    except sqlite3.DatabaseError as error:
        return str(error)
    return None


def _unusable(error: OSError, state: Path) -> ConfigError:
    if shortage.is_full(error):
        hint = "free space on its file system, or name another `state` in the configuration"
    else:
        hint = _USE_ANOTHER
    where = error.filename or state
    return ConfigError(f"state: {where} cannot be used: {shortage.why(error)}", hint=hint)
