"""Files and folders that survive a power cut: small files are replaced, so that one finds the old or the new.

A file system may bring names to the disk in another order than they were made, and the files in a folder
without the folder. So each step that another one builds on is synced before that.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgstored.host.filesystem import set_mode, sync

if TYPE_CHECKING:
    from pathlib import Path

#: The end of a file's name before it is renamed to its own.
NEW: Final = ".new"


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes `data` beside `path` and renames it there; it is on the disk when this returns.

    Raises `OSError`. One writer of a path at a time. Where the file system cannot sync, or keeps no
    permissions, the file is written all the same.
    """
    new = path.with_name(path.name + NEW)
    # Never through a link that lies in wait, nor into a file that somebody has open.
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            set_mode(fd, mode)
            sync(fd)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, and it is gone from the disk when this returns. Raises `OSError`."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def make_folder(path: Path, *, mode: int) -> None:
    """Makes a folder that is not there, and those above it; it is on the disk when this returns.

    Its name is synced also where it is there: who made it may have died before. Raises `OSError`.
    """
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in reversed(missing):
        # Whoever may not read the folder above cannot sync it.
        with suppress(PermissionError):
            sync_folder(each.parent)


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk. Raises `OSError`."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Removes what a process that died in `replace_file` left in a folder that is this process's alone.

    Does nothing where there is no folder. Raises `OSError`.
    """
    with suppress(FileNotFoundError):
        for path in list(folder.glob(f"*{NEW}")):
            if not path.is_dir():
                path.unlink(missing_ok=True)
