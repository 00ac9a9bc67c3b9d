from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from imgstored.host.mounts import mounted_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where the view is; nothing is left mounted there."""
    path = tmp_path / "images"
    yield path
    while mounted_at(path) is not None:
        subprocess.run(["umount", "-l", path], check=True)
