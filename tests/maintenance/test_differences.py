"""What a source knows better about an image."""

from __future__ import annotations

import pytest

from imgstored.errors import ImageMissingOriginalSnapshotError
from imgstored.maintenance.differences import changed_fields, original_snapshot

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
