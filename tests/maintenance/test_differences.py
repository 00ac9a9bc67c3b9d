"""Differences between an image and its source's manifest, or its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from imgstored.catalog.receipts import receipt_of
from imgstored.errors import ImageMissingOriginalSnapshotError
from imgstored.maintenance.differences import Manifest, Verdict, changed_fields, original_snapshot, verdict
from imgstored.pools.base import Checked, PoolImage
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.catalog.receipts import Receipt

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"b": 2, "a": [1]}, {"a": [1], "b": 2}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({}, {"x": None}, ["x"]),
        ({"gone": 1, "a": 1}, {"new": 1, "a": 2}, ["new", "a", "gone"]),
        (
            {"requirements": {"brand": "lx", "min_ram": 1}, "a": 1},
            {"requirements": {"brand": "kvm", "max_ram": 2}, "a": 2},
            ["a", "requirements.brand", "requirements.max_ram", "requirements.min_ram"],
        ),
        ({}, {"requirements": {"brand": "lx"}}, ["requirements"]),
        ({"requirements": {"brand": "lx"}}, {}, ["requirements"]),
        ({"requirements": "odd"}, {"requirements": {"brand": "lx"}}, ["requirements"]),
        ({"files": [{"size": 1}]}, {"files": [{"size": 2}]}, ["files"]),
    ],
)
def test_fields_are_named_as_imgadm_names_them(old, new, fields):
    before = repr((old, new))
    assert changed_fields(old, new) == fields
    assert repr((old, new)) == before


def test_the_original_is_known_by_its_guid():
    assert original_snapshot(UUID, {"a": 5, "b": 6}, 6) == "b"


def test_without_a_guid_it_is_not_guessed():
    assert original_snapshot(UUID, {"only": 5}, None) is None


@pytest.mark.parametrize(
    ("snapshots", "guid", "words"),
    [
        ({}, None, f'image "{UUID}" is missing its original snapshot'),
        ({}, 6, f'image "{UUID}" is missing its original snapshot'),
        ({"a": 5}, 6, f'image "{UUID}" is missing its original snapshot (expected a snapshot with guid 6)'),
    ],
)
def test_an_original_that_is_gone_is_said(snapshots, guid, words):
    with pytest.raises(ImageMissingOriginalSnapshotError) as caught:
        original_snapshot(UUID, snapshots, guid)
    assert caught.value.message == words
    assert caught.value.code == "ImageMissingOriginalSnapshot"


IMAGE = PoolImage(INCREMENTAL, 12, BASE, "filesystem", used=10, referenced=20, dataset=77, created=1000)
RECEIPT = receipt_of(IMAGE, 1000, 11)
SOUND = Checked(IMAGE, 1000)


def test_it_is_what_it_was() -> None:
    assert verdict(RECEIPT, SOUND, 11, Manifest()) == Verdict("ok")
    # Not every pool, and not every receipt, knows a stream's size; nor an origin's guid.
    assert verdict(RECEIPT, replace(SOUND, stream_size=None), 11, Manifest()).result == "ok"
    assert verdict(replace(RECEIPT, stream_size=None), SOUND, 11, Manifest()).result == "ok"
    assert verdict(replace(RECEIPT, origin_guid=None), SOUND, 11, Manifest()).result == "ok"


def test_what_imgadm_installed_may_be_written_to() -> None:
    checked = replace(SOUND, changed="written", stream_size=None)
    assert verdict(replace(RECEIPT, stream_size=None), checked, 11, Manifest()) == Verdict("ok")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda receipt: replace(receipt, guid=13), "guid is 12, and was 13"),
        (lambda receipt: replace(receipt, kind="volume"), "is a filesystem, and was a volume"),
        (lambda receipt: replace(receipt, origin=ZVOL), f"origin is {BASE}, and was {ZVOL}"),
        (lambda receipt: replace(receipt, origin=None), f"origin is {BASE}, and was none"),
        (lambda receipt: replace(receipt, origin_guid=14), "has the guid 11, and had 14"),
        (lambda receipt: replace(receipt, stream_size=999), "has 1000 bytes, and had 999"),
    ],
)
def test_it_is_another_one(change: Callable[[Receipt], Receipt], words: str) -> None:
    found = verdict(change(RECEIPT), SOUND, 11, Manifest())
    assert found.result == "changed"
    assert words in found.reason


@pytest.mark.parametrize(
    ("receipt", "result"),
    [
        (replace(RECEIPT, dataset=78), "unknown"),
        (replace(RECEIPT, dataset=78, guid=13), "changed"),
        # Older ones do not name their dataset, and say when they were written.
        (replace(RECEIPT, dataset=0, written_at=1000.5), "ok"),
        (replace(RECEIPT, dataset=0, written_at=999.9), "unknown"),
        (replace(RECEIPT, dataset=0, written_at=msgspec.UNSET), "ok"),
    ],
)
def test_a_receipt_is_of_one_dataset(receipt: Receipt, result: str) -> None:
    found = verdict(receipt, SOUND, 11, Manifest())
    assert found.result == result
    # Who installed it again may have mounted it.
    written = replace(SOUND, changed="written")
    assert verdict(receipt, written, 11, Manifest()).result == ("changed" if result == "ok" else result)


def test_a_pool_that_does_not_know_when() -> None:
    receipt = replace(RECEIPT, dataset=0, written_at=999.0)
    checked = replace(SOUND, image=replace(IMAGE, created=None))
    assert verdict(receipt, checked, 11, Manifest()) == Verdict("ok")


@pytest.mark.parametrize(
    ("facts", "manifest", "known", "result"),
    [
        ({"damaged": "rot"}, Manifest(), True, "damaged"),
        ({"damaged": "rot", "changed": "written"}, Manifest(broken=True), False, "damaged"),
        ({"changed": "written"}, Manifest(), True, "changed"),
        ({"changed": "written"}, Manifest(), False, "unknown"),
        ({"changed": "written"}, Manifest(broken=True), True, "damaged"),
        ({}, Manifest(broken=True), False, "damaged"),
        ({}, Manifest(missing=True), True, "damaged"),
        ({}, Manifest(missing=True), False, "unknown"),
        ({}, Manifest(), False, "unknown"),
    ],
)
def test_the_worst_is_said(facts: dict[str, Any], manifest: Manifest, known: bool, result: str) -> None:
    checked = replace(SOUND, **facts)
    found = verdict(RECEIPT if known else None, checked, 11, manifest)
    assert found.result == result
    assert found.reason


def test_its_data_is_not_what_was_recorded() -> None:
    receipt = replace(RECEIPT, content="aa")
    assert verdict(receipt, replace(SOUND, content="aa"), 11, Manifest()) == Verdict("ok")
    # Where nobody asked for it, or it was never recorded.
    assert verdict(receipt, SOUND, 11, Manifest()).result == "ok"
    assert verdict(RECEIPT, replace(SOUND, content="bb"), 11, Manifest()).result == "ok"
    found = verdict(receipt, replace(SOUND, content="bb"), 11, Manifest())
    assert (found.result, found.reason) == ("changed", "its data has the SHA-256 bb, and had aa")
