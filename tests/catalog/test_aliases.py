"""Aliases stay, mean one image each, and are not what could be something else."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from imgstored.catalog import aliases as module
from imgstored.catalog.aliases import Aliases
from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.errors import FileSystemError, InvalidUUIDError, UsageError
from imgstored.pools.base import PoolImage
from imgstored.pools.embedded import EmbeddedPool
from imgstored.state.damage import DAMAGED, Aside, kept
from tests.support.image_site import BASE, ZVOL, fixture_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    pool = EmbeddedPool("zones", tmp_path / "pool")
    yield Catalog({"zones": pool}, tmp_path / "images")
    pool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aliases.json"


def opened(path: Path, catalog: Catalog) -> Aliases:
    return Aliases(path, catalog, partial(Aside(path.parent / DAMAGED).move, lost="there are no aliases"))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def contents(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


async def test_there_and_back(path: Path, catalog: Catalog) -> None:
    aliases = opened(path, catalog)
    assert await aliases.set("web-stable", BASE) is None
    assert await aliases.set("web-stable", ZVOL) == BASE
    assert await aliases.set("db_1.x", BASE) is None
    again = opened(path, catalog)
    assert again.all() == [{"alias": "db_1.x", "uuid": BASE}, {"alias": "web-stable", "uuid": ZVOL}]
    assert (again.meaning("web-stable"), again.meaning("web"), again.meaning(BASE)) == (ZVOL, "web", BASE)
    assert await again.remove("web-stable") == ZVOL
    assert [each["alias"] for each in opened(path, catalog).all()] == ["db_1.x"]
    assert mode(path) == 0o600
    with pytest.raises(UsageError, match='there is no alias "web-stable"'):
        await again.remove("web-stable")


@pytest.mark.parametrize(
    "alias", ["", "1web", "a@1", "a b", "beef", "cafe-12", BASE, "a" * 65, "../x", "é", "a\x1b", "-a", "a\n"]
)
async def test_what_is_no_alias(path: Path, catalog: Catalog, alias: str) -> None:
    with pytest.raises(UsageError, match="cannot be an alias") as caught:
        await opened(path, catalog).set(alias, BASE)
    assert caught.value.message.isprintable()
    assert contents(path) is None


async def test_what_could_be_another_image(path: Path, catalog: Catalog) -> None:
    catalog.add(InstalledImage("zones", PoolImage(BASE, 1, None, "filesystem", 1, 1), fixture_manifest(BASE)))
    with pytest.raises(UsageError, match='"base" is the name of an installed image'):
        await opened(path, catalog).set("base", ZVOL)
    with pytest.raises(InvalidUUIDError):
        await opened(path, catalog).set("web", "base")


async def test_there_are_not_too_many(path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ALIASES", 2)
    aliases = opened(path, catalog)
    await aliases.set("a", BASE)
    await aliases.set("b", BASE)
    with pytest.raises(UsageError, match="there are 2 aliases already"):
        await aliases.set("c", BASE)
    assert await aliases.set("b", ZVOL) == BASE  # one that is there may mean another image


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[", b"\xff", b'{"aliases": {"a@1": "%s"}, "format": 1}' % BASE.encode(),
     b'{"aliases": []}', b'{"aliases": {"a\\n": "%s"}, "format": 1}' % BASE.encode(),
     b'{"aliases": {"a": "../../etc"}, "format": 1}', b'{"aliases": {}, "format": 2}'],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(path: Path, catalog: Catalog, content: bytes) -> None:
    path.write_bytes(content)
    aliases = opened(path, catalog)
    assert aliases.all() == []
    assert [each.read_bytes() for each in kept(path.parent / DAMAGED)] == [content]
    trio.run(aliases.set, "a", BASE)
    assert json.loads(path.read_bytes())["aliases"] == {"a": BASE}


async def test_what_cannot_be_written_is_not_there(path: Path, catalog: Catalog) -> None:
    aliases = opened(path, catalog)
    (path.parent / "aliases.json.new").mkdir()
    with pytest.raises(FileSystemError, match="cannot write"):
        await aliases.set("a", BASE)
    assert aliases.all() == []
