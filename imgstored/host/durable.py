"""Replaces small files so that whoever reads, also after a power cut, finds the old or the new one whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgstored.host.filesystem import set_mode, sync

if TYPE_CHECKING:
    from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes `data` beside `path` and renames it there; it is on the disk when this returns.

    Raises `OSError`. One writer of a path at a time. Where the file system cannot sync, or keeps no
    permissions, the file is written all the same.
    """
    new = path.with_name(path.name + ".new")
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
