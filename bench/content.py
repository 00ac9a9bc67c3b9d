"""Realistic content: this machine's own /usr, always in the same order."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20

#: No single file makes up more of the content than this.
_MOST_OF_A_FILE = 32 << 20


def usr_content(size: int, root: Path = Path("/usr")) -> Iterator[bytes]:
    """`size` bytes of the plain files below `root`, which is begun again when it was too small.

    Folders come in the order of their names' hashes, so that a part of /usr is a mix of all of it; the files
    of a folder in the order of their names. Raises `OSError` if nothing there can be read.
    """
    files = _files(root)
    left = size
    while left:
        before = left
        for path in files:
            for block in _blocks(path, min(left, _MOST_OF_A_FILE)):
                left -= len(block)
                yield block
            if not left:
                return
        if left == before:
            raise OSError(f"nothing below {root} can be read")


@functools.cache
def _files(root: Path) -> list[Path]:
    folders = sorted(
        ((folder, names) for folder, _, names in os.walk(root)),
        key=lambda found: hashlib.sha1(os.fsencode(found[0])).digest(),
    )
    return [Path(folder, name) for folder, names in folders for name in sorted(names)]


def _blocks(path: Path, limit: int) -> Iterator[bytes]:
    if path.is_symlink() or not path.is_file():
        return
    try:
        with path.open("rb") as file:
            while limit and (block := file.read(min(_BLOCK, limit))):
                limit -= len(block)
                yield block
    except OSError:  # not ours to read, or gone since the folder was listed
        return
