"""Full file systems: small ones in memory, mounted by root for the time of a test."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FewInodes:
    """A tmpfs that takes so many files more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"
        self._ballast.mkdir()

    def leave(self, inodes: int) -> None:
        """Makes or removes files until so many inodes are free."""
        while (free := os.statvfs(self.folder).f_favail) != inodes:
            names = sorted(self._ballast.iterdir())
            if free > inodes:
                (self._ballast / f"{len(names):06}").touch()
            else:
                names[-1].unlink()


def _only_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")


@contextmanager
def few_inodes(folder: Path, inodes: int = 200) -> Iterator[FewInodes]:
    """Mounts it at `folder`, which is made; 128 MiB are free."""
    _only_root()
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size=128m,nr_inodes={inodes},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield FewInodes(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def small(folder: Path, size: int = 256 << 10) -> Iterator[Path]:
    """Mounts a tmpfs of so many bytes at `folder`, which is made."""
    _only_root()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
