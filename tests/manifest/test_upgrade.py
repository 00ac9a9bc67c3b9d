from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import InvalidManifestError
from imgstored.manifest import load, upgrade

V1_KEYS = [
    "v", "creator_uuid", "owner", "public", "restricted_to_uuid", "disabled", "published_at", "created_at",
    "files", "image_size", "uuid", "acl",
]  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers(0, 3)
    | st.floats()
    | st.sampled_from(["", "1", "2012-10-25T11:04Z", "x.gz"])
)
files = st.dictionaries(st.sampled_from(["path", "url", "sha1"]), scalars)
anything = (
    scalars
    | st.lists(scalars | files, max_size=2)
    | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
)
v1 = st.dictionaries(st.sampled_from(V1_KEYS), anything).map(
    lambda document: {"creator_uuid": "c", **document}
)


def test_a_dsmanifest_becomes_v2(dsmanifest):
    before = copy.deepcopy(dsmanifest)
    assert upgrade(dsmanifest) == {
        "v": 2,
        "uuid": "f669428c-a939-11e2-a485-b790efc0f0c1",
        "owner": "352971aa-31ba-496c-9ade-a379feaecd52",
        "name": "base64",
        "version": "1.8.1",
        "state": "active",
        "disabled": False,
        "public": True,
        "type": "zone-dataset",
        "os": "smartos",
        "description": "Base 64-bit template",
        "published_at": "2012-10-25T11:04:00Z",
        "files": [
            {"sha1": "6cda4b3a0d4a5c4a5c4a5c4a5c4a5c4a5c4a5c4a", "size": 108943393, "compression": "bzip2"}
        ],
        "requirements": {"networks": [{"name": "net0", "description": "public"}]},
        "users": [{"name": "root"}],
        "generate_passwords": True,
        "image_size": 10240,
        "urn": "sdc:sdc:base64:1.8.1",
    }
    assert dsmanifest == before


@pytest.mark.parametrize("rules", ["import", "install"])
def test_an_upgraded_manifest_is_valid(dsmanifest, rules):
    manifest = load(dsmanifest, rules=rules)
    assert manifest.state == "active"
    assert manifest.published_at == "2012-10-25T11:04:00Z"
    assert manifest.file is not None
    assert manifest.file.compression == "bzip2"


@pytest.mark.parametrize(
    ("file", "compression"),
    [
        ({"path": "a.zfs.gz"}, "gzip"),
        ({"path": "a.zfs.bz2"}, "bzip2"),
        ({"path": "a.zfs.xz"}, "xz"),
        ({"path": "a.zfs.zst"}, "zstd"),
        ({"path": "a.zfs.XZ"}, "xz"),
        ({"path": "a.zfs"}, "none"),
        ({"url": "http://host/a.gz?signature=a.xz"}, "gzip"),
        ({"path": "a.gz", "url": "http://host/file"}, "gzip"),
        ({"path": "", "url": "http://host/a.gz"}, "gzip"),
        ({}, "none"),
        ({"path": 1}, "none"),
        ({"path": "a.gz", "compression": "xz"}, "xz"),
        ({"path": "a.gz", "compression": ""}, "gzip"),
    ],
)
def test_the_compression_is_told_by_the_files_name(dsmanifest, file, compression):
    dsmanifest["files"] = [{"size": 1, **file}]
    assert upgrade(dsmanifest)["files"] == [{"size": 1, "compression": compression}]


def test_a_restricted_image_becomes_private(dsmanifest):
    dsmanifest["restricted_to_uuid"] = "352971aa-31ba-496c-9ade-a379feaecd53"
    new = upgrade(dsmanifest)
    assert (new["public"], new["acl"]) == (False, ["352971aa-31ba-496c-9ade-a379feaecd53"])
    assert "restricted_to_uuid" not in new


@pytest.mark.parametrize(
    ("disabled", "state"), [(True, "disabled"), ("yes", "disabled"), (0, "active"), (None, "active")]
)
def test_disabled_becomes_a_state(dsmanifest, disabled, state):
    new = upgrade({**dsmanifest, "disabled": disabled})
    assert (new["disabled"], new["state"]) == (state == "disabled", state)


def test_the_date_of_creation_stands_in_for_that_of_publication(dsmanifest):
    del dsmanifest["published_at"]
    assert upgrade(dsmanifest)["published_at"] == "2012-10-24T10:00:00.000Z"


def test_a_size_that_is_no_number_stays_and_is_a_fault(dsmanifest):
    assert upgrade({**dsmanifest, "image_size": "large"})["image_size"] == "large"


@pytest.mark.parametrize("version", [1, 1.0, "1", 0, "", False, True])
def test_v1_may_say_so(dsmanifest, version):
    assert upgrade({**dsmanifest, "v": version}) == upgrade(dsmanifest)


@pytest.mark.parametrize("version", [2, 2.0, "2", " 2 ", 3, "2.5", 1e300])
def test_the_version_is_a_number_or_says_one(base, version):
    assert upgrade({**base, "v": version}) == {**base, "v": version}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"creator_uuid": None}, 'manifest is invalid: manifest does not have a "v" field'),
        ({"creator_uuid": None, "v": 1}, 'manifest is invalid: v1 without a "creator_uuid" field'),
        ({"v": "x"}, '"v" is not a number'),
        ({"v": [2]}, '"v" is not a number'),
        ({"creator_uuid": None, "v": "0x2"}, "v1 without"),
        ({"owner": "x"}, 'both "creator_uuid" .v1. and "owner" .v2.'),
        ({"restricted_to_uuid": "x", "public": True}, 'both "restricted_to_uuid" .v1. and "public" .v2.'),
    ],
)
def test_what_has_no_version_or_two_is_refused(dsmanifest, changes, why):
    with pytest.raises(InvalidManifestError, match=why):
        upgrade({**dsmanifest, **changes})


@pytest.mark.parametrize("document", [None, [], "text", 1])
def test_what_is_no_object_is_refused(document):
    with pytest.raises(InvalidManifestError):
        upgrade(document)


def test_v2_stays_as_it_is(base):
    assert upgrade(base) == base
    assert upgrade(base) is not base


@given(v1)
def test_what_was_upgraded_needs_no_other_upgrade(document):
    before = repr(document)
    try:
        new = upgrade(document)
    except InvalidManifestError:
        return
    assert repr(document) == before
    if document.get("v") in (None, 1) and not isinstance(document.get("v"), (bool, float)):
        assert new["v"] == 2
    assert repr(upgrade(new)) == repr(new)  # NaN is not equal to itself
