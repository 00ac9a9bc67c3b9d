"""Replaces small files so that whoever reads, also after a power cut, finds the old or the new one whole."""

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
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
