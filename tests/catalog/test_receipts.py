"""What was installed is written down, and can be read again whatever happens to the files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgstored.catalog.receipts import Receipt, Receipts
from tests.support.image_site import BASE, ZVOL

if TYPE_CHECKING:
    from pathlib import Path

RECEIPT = Receipt((1 << 64) - 1, "volume", 10 << 30, BASE, 7, (1 << 64) - 1)


@pytest.fixture
def receipts(tmp_path: Path) -> Receipts:
    return Receipts(tmp_path / "receipts")


def test_there_and_back(receipts: Receipts) -> None:
    assert receipts.read("zones", ZVOL) is None
    assert receipts.uuids("zones") == []
    receipts.write("zones", ZVOL, RECEIPT)
    assert receipts.read("zones", ZVOL) == RECEIPT
    other = Receipt(1, "filesystem", None, None, None, 5)
    receipts.write("zones", ZVOL, other)
    assert receipts.read("zones", ZVOL) == other
    receipts.forget("zones", ZVOL)
    receipts.forget("zones", ZVOL)
    assert receipts.read("zones", ZVOL) is None


def test_each_pool_has_its_own(receipts: Receipts, tmp_path: Path) -> None:
    receipts.write("zones", BASE, RECEIPT)
    receipts.write("zones-2", ZVOL, RECEIPT)
    (tmp_path / "receipts" / "zones-nonsense.json").touch()
    assert receipts.uuids("zones") == [BASE]
    assert receipts.uuids("zones-2") == [ZVOL]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1", b'{"guid": -1}', b'{"guid": "1"}', b"\xff", b"x" * (1 << 17)]
)
def test_what_cannot_be_read_says_nothing(receipts: Receipts, tmp_path: Path, content: bytes) -> None:
    receipts.write("zones", BASE, RECEIPT)
    (tmp_path / "receipts" / f"zones-{BASE}.json").write_bytes(content)
    assert receipts.read("zones", BASE) is None
    receipts.write("zones", BASE, RECEIPT)
    assert receipts.read("zones", BASE) == RECEIPT


def test_an_older_one_is_as_old_as_its_file(receipts: Receipts, tmp_path: Path) -> None:
    receipts.write("zones", BASE, RECEIPT)
    path = tmp_path / "receipts" / f"zones-{BASE}.json"
    path.write_text(
        '{"guid": 1, "kind": "volume", "stream_size": 9, "origin": null, "origin_guid": null, "format": 1}'
    )
    os.utime(path, (1_000_000, 1_000_000))
    assert receipts.read("zones", BASE) == Receipt(1, "volume", 9, None, None, written_at=1_000_000.0)


def test_nobody_else_reads_it(receipts: Receipts, tmp_path: Path) -> None:
    receipts.write("zones", BASE, RECEIPT)
    folder = tmp_path / "receipts"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
    assert [path.name for path in folder.iterdir()] == [f"zones-{BASE}.json"]
