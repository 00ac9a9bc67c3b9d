"""Tests of the pool on real ZFS: in the guest only, where tests/guest/run.sh starts them.

Modules run at the same time, so each has pools of its own names.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from imgstored.pools.zfs import ZfsPool, pipe
from tests.pools.contract import pool
from tests.pools.zfs.commands import empty, make_pool, mounted_tree, resume_point, run
from tests.pools.zfs.made_streams import make_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["pool"]

collect_ignore_glob = [] if os.environ.get("IMGSTORE_GUEST") else ["test_*.py"]


class ZfsPools:
    """A real pool, opened again and again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self) -> ZfsPool:
        return ZfsPool(self.name)

    def resume_point(self, uuid: str) -> int:
        return resume_point(f"{self.name}/{uuid}-partial")

    @contextmanager
    def tree(self, uuid: str) -> Iterator[Path]:
        with mounted_tree(f"{self.name}/{uuid}") as tree:
            yield tree


@pytest.fixture(scope="module")
def module(request: pytest.FixtureRequest) -> str:
    """What the names of the module's pools begin with."""
    return request.path.stem.removeprefix("test_")


@pytest.fixture(scope="module")
def tank(module: str) -> Iterator[str]:
    """The name of the pool of most tests."""
    yield from existing(f"{module}-tank", "3G")


@pytest.fixture(scope="module")
def other_tank(module: str) -> Iterator[str]:
    """The name of another pool."""
    yield from existing(f"{module}-other", "3G")


def existing(name: str, size: str) -> Iterator[str]:
    make_pool(name, size)
    yield name
    run("zpool", "destroy", "-f", name, check=False)


@pytest.fixture
def pools(tank: str) -> Iterator[ZfsPools]:
    yield ZfsPools(tank)
    empty(tank)


@pytest.fixture(scope="module")
def source(module: str) -> Iterator[str]:
    """The name of a pool that streams are made of."""
    name = f"{module}-source"
    yield name
    run("zpool", "destroy", "-f", name, check=False)


@pytest.fixture(scope="module")
def made(source: str) -> dict[str, bytes]:
    """Streams of every kind, of what is in the pool `source`."""
    return make_streams(source)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each write gave to the kernel."""
    sizes: list[int] = []
    write = pipe.Inlet.write

    def counted(inlet: pipe.Inlet, data: bytes) -> bool:
        sizes.append(len(data))
        return write(inlet, data)

    monkeypatch.setattr(pipe.Inlet, "write", counted)
    return sizes


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Puts a figure into the report."""
    return partial(record_property, "measured")
