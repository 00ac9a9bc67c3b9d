"""Fixtures that all tests share: real web servers."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from imgstored.http.secrets import KNOWN
from tests.support import file_calls
from tests.support.faulty_server import FaultyServer
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A shell's `&` makes what it starts ignore SIGINT; what the tests start and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Most tests that end a daemon want to see what becomes of its clients, and not that they wait for another.
os.environ.setdefault("IMGCTL_RECONNECT", "0")

# How long one example takes says more about what else the machine does than about the code.
settings.register_profile("quick", deadline=None, max_examples=25)
# CI says of a change whether it broke something; what it did not break is found by all other runs.
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def no_secrets() -> None:
    """Texts of one test are not hidden because another test sent them somewhere."""
    KNOWN.forget()


file_calls.watch()


@pytest.fixture(autouse=True)
def _no_file_calls_in_the_event_loop() -> Iterator[None]:
    """Fails a test in whose event loop imgstored called files."""
    file_calls.found.clear()
    yield
    assert not file_calls.found, file_calls.message(file_calls.found)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder that `nginx` and `start_nginx` serve."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def start_nginx(tmp_path: Path, site: Path) -> Iterator[Callable[..., Nginx]]:
    """Starts an nginx that serves `site`, with `Nginx`'s own settings; may be called several times."""
    with ExitStack() as stack:
        started = 0

        def start(**settings: Any) -> Nginx:
            nonlocal started
            started += 1
            return stack.enter_context(Nginx(tmp_path / f"nginx-{started}", **{"root": site, **settings}))

        yield start


@pytest.fixture
def nginx(start_nginx: Callable[..., Nginx]) -> Nginx:
    """An nginx that serves `site`."""
    return start_nginx()


@pytest.fixture
def start_faulty() -> Iterator[Callable[..., FaultyServer]]:
    """Starts a server that answers as the given function does; may be called several times."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(FaultyServer(answer))
