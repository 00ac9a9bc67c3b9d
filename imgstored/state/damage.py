"""Damaged files of the state folder: kept aside in its folder `damaged`, and listed.

A start goes on without them, so damage costs only what is damaged. All calls block, and may be made from any
thread.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from imgstored.errors import DamagedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = structlog.get_logger(__name__)

#: The folder, in the state folder.
DAMAGED: Final = "damaged"
#: The most copies and files that are kept, and entries of this process about them; the newest stay.
MAX_KEPT: Final = 50
#: The number of names in a message.
_SHOWN: Final = 5
#: Bytes of one row's value that are kept.
_MAX_VALUE: Final = 1 << 20
#: The endings of SQLite's files of a database.
PARTS: Final = ("", "-wal", "-shm", "-journal")


class Damage(Struct, frozen=True):
    """A damaged file, folder or row."""

    what: str
    why: str
    lost: str  #: the effect of the loss
    kept: str | None  #: the path of the copy; None where it could not be kept


class Aside:
    """The folder of damaged files, which is created when it is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._found: list[Damage] = []

    def found(self) -> list[Damage]:
        """The damage that this process has found."""
        with self._lock:
            return list(self._found)

    def earlier(self) -> list[str]:
        """The names of files that earlier processes have kept here, and nobody has removed."""
        with self._lock:
            own = {damage.kept for damage in self._found}
        return [path.name for path in kept(self.folder) if str(path) not in own]

    def errors(self) -> list[DamagedError]:
        """All damage, for `status`."""
        found = [
            DamagedError(
                f"{damage.what} was damaged: {damage.why}; {damage.lost}",
                hint="check the disk" if damage.kept is None else f"check the disk; {damage.kept} is a copy",
            )
            for damage in self.found()
        ]
        if earlier := self.earlier():
            more = f" and {len(earlier) - _SHOWN} more" if len(earlier) > _SHOWN else ""
            names = ", ".join(earlier[:_SHOWN])
            found.append(
                DamagedError(f"set aside by an earlier start: {names}{more}", hint=look_at(self.folder))
            )
        return found

    def move(self, path: Path, why: str, *, lost: str) -> None:
        """Moves a file or a folder away, with SQLite's other files of it. Raises `OSError`."""
        with self._lock:
            target = self._place(path.name)
            for ending in PARTS:
                part = path.with_name(path.name + ending)
                if os.path.lexists(part):
                    part.rename(target.with_name(target.name + ending))
            self._note(Damage(str(path), why, lost, str(target)))

    def copy(self, what: str, why: str, row: Mapping[str, Any], *, lost: str) -> None:
        """Keeps a copy of a row of a database. Never raises; if it fails, the log still names the row."""
        with self._lock:
            target: Path | None = None
            try:
                target = self._place("row").with_suffix(".json")
                values = {name: _printable(value) for name, value in row.items()}
                content = json.dumps({"what": what, "why": why, "row": values}, indent=2)
                with open(target, "x", encoding="ascii", opener=_private) as file:
                    file.write(content + "\n")
            except OSError as error:
                log.warning("what was damaged cannot be kept", what=what, error=str(error))
                target = None
            self._note(Damage(what, why, lost, None if target is None else str(target)))

    def _note(self, damage: Damage) -> None:
        log.error(
            "something was damaged, and is set aside",
            what=damage.what,
            why=damage.why,
            lost=damage.lost,
            kept=damage.kept,
        )
        self._found = [*self._found[1 - MAX_KEPT :], damage]

    def _place(self, name: str) -> Path:
        """A free path in the folder; removes the oldest entries to stay below the limit."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        there = kept(self.folder)
        for old in there[: max(0, len(there) - MAX_KEPT + 1)]:
            for ending in PARTS:
                _remove(old.with_name(old.name + ending))
        stamp, number = int(time.time()), 1
        while True:
            suffix = f"-{number}" if number > 1 else ""
            path = self.folder / f"{name}-{stamp}{suffix}"
            if not any(os.path.lexists(each) for each in (path, path.with_suffix(".json"))):
                return path
            number += 1


def look_at(folder: Path) -> str:
    """The hint about damaged files that were set aside."""
    return f"check the disk; look at what is in {folder}, and remove what you do not need"


def kept(folder: Path) -> list[Path]:
    """The contents of such a folder, the oldest first; nothing if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_ctime_ns, entry.name)
                for entry in entries
                if not entry.name.endswith(PARTS[1:])
            ]
    except OSError:
        return []
    return [folder / name for _, name in sorted(found)]


def _remove(path: Path) -> None:
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return  # it may not have existed; what stays is removed next time


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _printable(value: Any) -> Any:
    """A value of SQLite for JSON: bytes as hexadecimal digits, all bounded in size."""
    if isinstance(value, bytes):
        return {"hex": value[:_MAX_VALUE].hex()}
    return value[:_MAX_VALUE] if isinstance(value, str) else value
