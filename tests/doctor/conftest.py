"""A host to examine: its configuration, in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgstored.config import loading
from imgstored.doctor.check import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def examined(tmp_path: Path) -> Callable[..., Subject]:
    """Makes a subject; `text` is more of its configuration, `facts` are those of a running daemon."""

    def make(text: str = "", *, top: str = "", **facts: Any) -> Subject:
        file = tmp_path / "imgstored.toml"
        view = f'[view]\npath = "{tmp_path}/images"\n' if "[view]" not in text else ""
        file.write_text(f'state = "{tmp_path}/state"\n{top}\n{view}{text}')
        return Subject(loading.load(file), (file,), **facts)

    return make
