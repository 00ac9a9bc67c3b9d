"""What was installed is written down, and can be read again whatever happens to the files."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace as msgspec_replace

from imgstored.catalog.receipts import Receipt, Receipts, receipt_of, recorded
from imgstored.pools.base import Checked, PoolImage
from imgstored.state.damage import DAMAGED, Aside
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


def test_a_damaged_one_is_set_aside_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    aside = Aside(tmp_path / DAMAGED)
    receipts = Receipts(tmp_path / "receipts", partial(aside.move, lost="nothing to compare with"))
    receipts.write("zones", BASE, RECEIPT)
    receipts.write("zones", ZVOL, RECEIPT)
    (tmp_path / "receipts" / f"zones-{BASE}.json").write_bytes(b"\xff{")
    assert receipts.read("zones", BASE) is None
    assert receipts.read("zones", ZVOL) == RECEIPT
    (error,) = aside.errors()
    assert f"zones-{BASE}.json was damaged: " in error.message
    receipts.write("zones", BASE, RECEIPT)
    assert receipts.read("zones", BASE) == RECEIPT
    assert len(aside.found()) == 1


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


IMAGE = PoolImage(BASE, 12, None, "filesystem", used=10, referenced=20, dataset=77, created=1000)


def test_what_is_recorded_replaces_what_was_installed(receipts: Receipts) -> None:
    ours = receipt_of(IMAGE, 1000, None)
    checked = Checked(IMAGE, None, content="ab")
    assert recorded(None, checked, None) == msgspec_replace(ours, stream_size=None, content="ab")
    assert recorded(ours, checked, None) == msgspec_replace(ours, content="ab")
    # What is known of another dataset, or of another image in its place, says nothing of this one.
    for other in (msgspec_replace(ours, dataset=78), msgspec_replace(ours, guid=13)):
        assert recorded(other, checked, None).stream_size is None
    receipts.write("zones", BASE, recorded(ours, checked, None))
    assert receipts.read("zones", BASE) == msgspec_replace(ours, content="ab")


def test_a_receipt_without_a_checksum_is_as_an_older_daemon_reads_it(
    receipts: Receipts, tmp_path: Path
) -> None:
    receipts.write("zones", BASE, receipt_of(IMAGE, 1000, None))
    assert b"content" not in (tmp_path / "receipts" / f"zones-{BASE}.json").read_bytes()
