from __future__ import annotations

import json

import pytest

from imgstored.sources import kept_lists
from imgstored.sources.base import Listed, SourceSpec
from imgstored.sources.kept_lists import KeptLists
from tests.support.image_site import BASE, ZVOL, fixture_manifest

SPEC = SourceSpec("https://images.example?channel=dev")
IMAGES = [Listed(fixture_manifest(uuid), SPEC.url) for uuid in (BASE, ZVOL)]
TIME = "2026-11-24T00:00:00+00:00"


@pytest.fixture
def lists(tmp_path):
    return KeptLists(tmp_path / "lists")


def only_file(tmp_path):
    (path,) = (tmp_path / "lists").iterdir()
    return path


def test_what_was_kept_comes_back(lists):
    assert lists.kept(SPEC) is None
    lists.keep(SPEC, IMAGES, TIME)
    assert lists.kept(SPEC) == (IMAGES, TIME)
    lists.keep(SPEC, IMAGES[:1], TIME)
    assert lists.kept(SPEC) == (IMAGES[:1], TIME)


def test_each_source_has_its_own(lists, tmp_path):
    others = [
        SourceSpec(SPEC.url, "static"),
        SourceSpec(SPEC.url, insecure=True),
        SourceSpec(SPEC.url, channel="x"),
    ]
    for spec in [SPEC, *others]:
        lists.keep(spec, IMAGES, spec.type)
    assert len(list((tmp_path / "lists").iterdir())) == 4
    lists.keep_only([SPEC])
    assert [lists.kept(spec) is None for spec in [SPEC, *others]] == [False, True, True, True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        json.dumps({"listed_at": TIME, "manifests": {}}).encode(),
        json.dumps({"listed_at": 1, "manifests": []}).encode(),
        json.dumps({"listed_at": TIME, "manifests": [1]}).encode(),
        json.dumps({"listed_at": TIME, "manifests": [{"uuid": "../x"}]}).encode(),
    ],
)
def test_a_damaged_file_is_as_good_as_none(lists, tmp_path, content):
    lists.keep(SPEC, IMAGES, TIME)
    only_file(tmp_path).write_bytes(content)
    assert lists.kept(SPEC) is None
    lists.keep(SPEC, IMAGES, TIME)
    assert lists.kept(SPEC) == (IMAGES, TIME)


def test_a_list_that_is_too_large_is_not_kept_nor_an_older_one(lists, tmp_path, monkeypatch):
    lists.keep(SPEC, IMAGES, TIME)
    monkeypatch.setattr(kept_lists, "MAX_LIST", 1000)
    assert lists.kept(SPEC) is None
    lists.keep(SPEC, IMAGES, TIME)
    assert list((tmp_path / "lists").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_no_error(lists, tmp_path):
    (tmp_path / "lists").write_text("a file")
    lists.keep(SPEC, IMAGES, TIME)
    assert lists.kept(SPEC) is None
    lists.keep_only([])
