from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgstored.host.mounts import mounted_at

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the view is; nothing is left mounted there.

    Not below pytest's own folder, which each pytest that starts closes to other users.
    """
    with tempfile.TemporaryDirectory(prefix="imgstore-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "images"
        yield path
        while mounted_at(path) is not None:
            subprocess.run(["umount", "-l", path], check=True)
