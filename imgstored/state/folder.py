"""The state folder, for one daemon at a time. All calls block."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from imgstored import __version__
from imgstored.errors import ConfigError
from imgstored.host import filesystem, shortage
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.schema import HISTORY, JOURNAL, SCHEMA, VERSION, read_version, write_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

#: The file of the aliases, and the effect of its loss.
ALIASES: Final = "aliases.json"
NO_ALIASES: Final = "there are no aliases"

_LOCK: Final = "lock"

_USE_ANOTHER: Final = "start imgstored as root, or name a folder of your own as `state` in its configuration"

#: The folders that contain only files, and the effect of the loss of one of their files.
_FLAT: Final = {
    "spool": "what was downloaded is downloaded again",
    "receipts": "`imgctl verify` has nothing to compare an image with",
    "lists": "a source that does not answer shows no images",
    "creating": "what an interrupted `imgctl create` had changed is not undone",
    "locks": "nothing",
}
#: The other folders, as patterns.
_FOLDERS: Final = ("pool", "pool-*", "imgadm", "imgadm/images")

#: Where SQLite keeps the number of a database's schema (https://www.sqlite.org/fileformat.html).
_USER_VERSION: Final = slice(60, 64)
_SQLITE: Final = b"SQLite format 3\0"


@contextmanager
def owned(state: Path, *, passable: bool = False, aside: Aside | None = None) -> Iterator[Path]:
    """The state folder with its `spool`, for this process alone.

    With `passable` other users can pass through it to what they may read, but see nothing else of it. Files
    and folders in the place of others go to `aside`. Raises `ConfigError` if the folder cannot be used, or a
    newer daemon made it; then it does not change.
    """
    aside = aside or Aside(state / DAMAGED)
    try:
        filesystem.make_folder(state, mode=0o700)
        lock = _open_lock(state / _LOCK, aside)
    except OSError as error:
        raise _unusable(error, state) from error
    try:
        _take(lock, state)
        refuse_newer(state)
        try:
            if passable:
                state.chmod(stat.S_IMODE(state.stat().st_mode) | 0o011)
        except OSError as error:
            raise _unusable(error, state) from error
        _tidy(state, aside)
        yield state
    finally:
        os.close(lock)


def _open_lock(path: Path, aside: Aside) -> int:
    """Raises `OSError`."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        aside.move(path, "it is not a regular file", lost="nothing")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _tidy(state: Path, aside: Aside) -> None:
    """Makes the folders, writes the version, and moves away what is in the place of something else.

    Raises `ConfigError`, but not for a disk that is full or fails: whoever needs a folder reports that.
    """
    steps: list[Callable[[], None]] = [
        partial(_version, state, aside),
        partial(write_version, state),
        partial(_regular, state / ALIASES, NO_ALIASES, aside),
        *(partial(_folder, state, pattern, aside) for pattern in _FOLDERS),
        *(partial(_flat, state / name, lost, aside) for name, lost in _FLAT.items()),
        *(partial(filesystem.sweep, folder) for folder in (state, *(state / name for name in _FLAT))),
    ]
    for step in steps:
        try:
            step()
        except OSError as error:
            if isinstance(error, PermissionError):
                raise _unusable(error, state) from error
            log.error("the state folder cannot be tidied up", path=error.filename, error=shortage.why(error))


def _version(state: Path, aside: Aside) -> None:
    """Moves away a version file that cannot be read. Raises `OSError`."""
    _regular(state / VERSION, "nothing", aside)
    if os.path.lexists(state / VERSION) and not read_version(state).schema:
        aside.move(state / VERSION, "it cannot be read", lost="nothing")


def _folder(state: Path, pattern: str, aside: Aside) -> None:
    """Moves away whatever has a folder's name, and is not a folder. Raises `OSError`."""
    for path in state.glob(pattern):
        if not path.is_dir():
            aside.move(path, "it is not a folder", lost="what was in it")


def _flat(folder: Path, lost: str, aside: Aside) -> None:
    """Moves away what is not a file in a folder of files, or is not such a folder. Raises `OSError`."""
    # An operator may have made a link to a folder.
    if os.path.lexists(folder) and not folder.is_dir():
        aside.move(folder, "it is not a folder", lost=lost)
    if folder.name == "spool":
        folder.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            _regular(path, lost, aside)


def _regular(path: Path, lost: str, aside: Aside) -> None:
    """Moves away whatever has a file's name, and is not a regular file. Raises `OSError`."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        aside.move(path, "it is not a regular file", lost=lost)


def _take(lock: int, state: Path) -> None:
    try:
        filesystem.try_flock(lock)
        # SQLite takes POSIX locks. On a file system without them it says that the database is locked.
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
    """Raises `ConfigError` if a newer daemon has written the folder."""
    version = read_version(state)
    schema = version.schema or max(_number(state / name) for name in (JOURNAL, HISTORY))
    if schema > SCHEMA:
        maker = f"imgstored {version.maker}" if version.maker else "a newer imgstored"
        raise ConfigError(
            f"state: the folder {state} was made by {maker} (schema {schema});"
            f" this is imgstored {__version__}, which knows schema {SCHEMA}",
            hint="start the newer imgstored; or give this one another `state` in its configuration",
        )


def _number(database: Path) -> int:
    """The schema of a database, read without opening it; 0 if that fails."""
    with suppress(OSError):
        fd = os.open(database, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            header = os.read(fd, _USER_VERSION.stop)
        finally:
            os.close(fd)
        if header.startswith(_SQLITE):
            return int.from_bytes(header[_USER_VERSION], "big")
    return 0


def _unusable(error: OSError, state: Path) -> ConfigError:
    if shortage.is_full(error):
        hint = "free space on its file system, or name another `state` in the configuration"
    else:
        hint = _USE_ANOTHER
    where = error.filename or state
    return ConfigError(f"state: {where} cannot be used: {shortage.why(error)}", hint=hint)
