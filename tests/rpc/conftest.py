from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everybody may go, other than in pytest's own folders; with a short name, as sockets need."""
    made = Path(tempfile.mkdtemp(prefix="imgstore-rpc-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s" / "imgstored.sock"
