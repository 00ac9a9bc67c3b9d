"""Real registries."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.docker_registry import DockerRegistry, TokenServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[Callable[..., DockerRegistry]]:
    """Starts a registry, with `DockerRegistry`'s own settings; may be called several times."""
    with ExitStack() as stack:
        started = 0

        def start(**settings: Any) -> DockerRegistry:
            nonlocal started
            started += 1
            return stack.enter_context(DockerRegistry(tmp_path / f"registry-{started}", **settings))

        yield start


@pytest.fixture
def start_tokens(tmp_path: Path) -> Iterator[Callable[..., TokenServer]]:
    """Starts a token server, with `TokenServer`'s own settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(TokenServer(tmp_path, **settings))
