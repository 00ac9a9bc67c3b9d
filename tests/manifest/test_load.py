from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import InvalidManifestError, ManifestValidationError
from imgstored.manifest import Manifest, ManifestFile, Rules, load, parse
from tests.support.triton_agent import agents_manifest

DATA = Path(__file__).parent.parent / "data"
SHA1 = "4225e44835795df43017e20991de1c59203a6363"
OTHER = "11111111-aaaa-4bbb-8ccc-0000000000ff"
FILE = {"sha1": SHA1, "size": 1, "compression": "gzip"}

both = pytest.mark.parametrize("rules", ["import", "install"])


def errors(document: dict[str, Any], rules: Rules) -> list[dict[str, str]]:
    """The faults that are found; none for a good manifest."""
    try:
        load(document, rules=rules)
    except ManifestValidationError as caught:
        error = caught
    else:
        return []
    assert error.message.startswith("invalid manifest: ")
    assert error.message.isprintable()
    assert error.hint
    found: list[dict[str, str]] = error.data["errors"]
    return found


def faulty(document: dict[str, Any], rules: Rules) -> list[tuple[str, str]]:
    return [(fault["field"], fault["code"]) for fault in errors(document, rules)]


def with_file(base, **fields):
    return {**base, "files": [{**FILE, **fields}]}


# -- good manifests ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("path", sorted(DATA.glob("*.imgmanifest")), ids=lambda path: path.stem)
def test_real_manifests_are_good(path, rules):
    document = parse(path.read_bytes())
    manifest = load(document, rules=rules)
    assert manifest.document == document
    for field in ("uuid", "name", "version", "type", "os", "state", "published_at"):
        assert getattr(manifest, field) == document[field]
    assert manifest.origin == document.get("origin")
    file = document["files"][0]
    assert manifest.file == ManifestFile(file["size"], file["sha1"], file["compression"], None)


def test_every_field_of_imgadms_table_is_known(base):
    document = {
        **base,
        "urn": "sdc:sdc:base:1.0.0",
        "homepage": "https://docs.example.com/base",
        "eula": "http://example.com",
        "icon": True,
        "error": {"message": "failed", "code": "X", "stack": "at", "more": 1},
        "activated": True,
        "origin": OTHER,
        "acl": [OTHER],
        "requirements": {
            "networks": [{"name": "net0", "description": "public"}],
            "brand": "bhyve",
            "ssh_key": True,
            "min_ram": 64,
            "max_ram": 64,
            "min_platform": {"7.0": "20120101T000000Z"},
            "max_platform": {"7.0": "20990101T000000Z"},
            "bootrom": "uefi",
        },
        "users": [{"name": "root"}],
        "billing_tags": ["x" * 128],
        "traits": {"a": "b", "c": True, "d": ["e"]},
        "tags": {"role": "os", "n": 1},
        "generate_passwords": False,
        "inherited_directories": ["/opt"],
        "image_size": "1024",
        "channels": ["dev", "release"],
        "nic_driver": "",
    }
    assert errors(document, "install") == []
    assert load(document, rules="install").document == document


@pytest.mark.parametrize(
    "published", ["2012-05-01T12:00:00Z", "2012-05-01T12:00:00.123Z", "2024-02-29T00:00:00Z"]
)
def test_dates_as_imgapi_has_them(base, published):
    assert errors({**base, "published_at": published}, "install") == []


def test_null_is_as_good_as_absent(base):
    manifest = load({**base, "origin": None, "published_at": None, "requirements": None}, rules="install")
    assert (manifest.origin, manifest.published_at) == (None, None)
    assert faulty({**base, "name": None}, "install") == [("name", "MissingParameter")]


def test_a_manifest_to_install_may_leave_its_file_to_the_command(base):
    del base["files"]
    assert load(base, rules="install").file is None
    assert load({**base, "files": []}, rules="install").file is None


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"state": "nuked"}, "nuked"),
        ({"state": None}, "active"),
        ({"state": None, "activated": False}, "unactivated"),
        ({"state": None, "disabled": True}, "disabled"),
        ({"state": None, "disabled": "true"}, "disabled"),
        ({"state": None, "disabled": "false"}, "active"),
    ],
)
def test_the_state_is_served_or_worked_out(base, fields, state):
    assert load({**base, **fields}, rules="import").state == state


@pytest.mark.parametrize(
    ("guid", "expected"),
    [
        ("11629902597155826855", 11629902597155826855),
        ("18446744073709551616", None),
        ("1" * 5000, None),
        ("x", None),
        (2**53 - 1, 2**53 - 1),
        (11629902597155826855, None),  # JavaScript has rounded it
        (-1, None),
        (True, None),
        (1.5, None),
    ],
)
def test_the_guid_is_taken_where_it_is_exact(base, guid, expected):
    file = load(with_file(base, dataset_guid=guid), rules="import").file
    assert file is not None
    assert file.dataset_guid == expected


# -- faults --------------------------------------------------------------------------------------------------


def test_every_fault_is_listed(base):
    del base["uuid"]
    document = {
        **base,
        "name": "a\x1b[2J",
        "foo": 1,
        "type": "vm",
        "files": [{"size": -1}],
        "acl": [1, OTHER, "x"],
    }
    with pytest.raises(ManifestValidationError) as caught:
        load(document, rules="install")
    assert caught.value.data["errors"] == [
        {"field": "uuid", "code": "MissingParameter"},
        {"field": "name", "code": "Invalid", "message": "may only have letters, digits, spaces and ._/-"},
        {
            "field": "type",
            "code": "Invalid",
            "message": "must be one of zone-dataset, lx-dataset, zvol, docker, lxd, other, null",
        },
        {"field": "files[0].sha1", "code": "MissingParameter"},
        {"field": "files[0].compression", "code": "MissingParameter"},
        {"field": "files[0].size", "code": "Invalid", "message": "not from 1 to 1099511627776"},
        {"field": "foo", "code": "Invalid"},
        {"field": "acl[0]", "code": "Invalid", "message": "not a string"},
        {"field": "acl[2]", "code": "Invalid", "message": "not a uuid in lower case"},
    ]
    assert caught.value.code == "ManifestValidation"


def test_the_message_is_imgadms(base):
    del base["uuid"]
    with pytest.raises(ManifestValidationError) as caught:
        load({**base, "foo": 1, "name": "*"}, rules="install")
    assert caught.value.message == (
        "invalid manifest: uuid (MissingParameter), "
        "name (may only have letters, digits, spaces and ._/-), foo"
    )


@both
@pytest.mark.parametrize("field", ["uuid", "name", "version", "type", "os"])
def test_required_fields(base, rules, field):
    del base[field]
    assert faulty(base, rules) == [(field, "MissingParameter")]


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", "2"), ("v", 2.0), ("v", True), ("v", 0), ("v", -1),
        ("uuid", 1), ("uuid", OTHER.upper()), ("uuid", "../../../../tmp/x"), ("uuid", OTHER + "\n"),
        ("name", 1), ("name", ""), ("name", "x" * 1025), ("name", "a\nb"), ("name", "é"), ("name", ["a"]),
        ("version", 1.0), ("version", ""), ("version", "1 0"), ("version", "x" * 513),
        ("version", "1\x1b[0m"),
        ("type", "vm"), ("type", None), ("type", ["zvol"]), ("type", "null"),
        ("os", "plan9"), ("os", 1), ("os", "null"),
        ("origin", "x"), ("origin", 1), ("origin", False), ("origin", "11111111-aaaa-4bbb-8ccc-000000000001"),
        ("state", 1), ("state", "active\n"), ("state", "x" * 100),
        ("published_at", 1335873600), ("published_at", "\x1b]0;x\x07"),
        ("files", {}), ("files", "x"), ("files", [None]), ("files", [[]]),
        ("requirements", []), ("requirements", "x"),
    ],
)  # fmt: skip
def test_what_the_store_relies_on_is_checked_by_both_rules(base, rules, field, value):
    found = faulty({**base, field: value}, rules)
    assert found
    assert all(name.startswith(field) for name, _ in found)


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha1", None), ("sha1", SHA1.upper()), ("sha1", SHA1[1:]), ("sha1", SHA1 + "0"), ("sha1", 1),
        ("sha1", ""),
        ("size", None), ("size", 0), ("size", -1), ("size", True), ("size", 1.0), ("size", "1"),
        ("size", 2**40 + 1),
        ("size", 1e300),
        ("compression", None), ("compression", "zip"), ("compression", 1), ("compression", []),
        ("compression", {}),
    ],
)  # fmt: skip
def test_the_files_fields(base, rules, field, value):
    code = "MissingParameter" if value is None else "Invalid"
    assert faulty(with_file(base, **{field: value}), rules) == [(f"files[0].{field}", code)]


@both
@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd", "none"])
def test_the_compressions(base, rules, compression):
    assert errors(with_file(base, compression=compression, size=2**40), rules) == []


@both
@pytest.mark.parametrize("field", ["min_platform", "max_platform"])
@pytest.mark.parametrize(
    "value",
    [
        {}, [], "7.0", {"7.0": None}, {"7.0": 20120101}, {"7.0": "2012"}, {"undefined": "20120101T000000Z"},
        {"7.0\n": "20120101T000000Z"}, {"9" * 5000: "20120101T000000Z"},
        {f"{number}.0": "20120101T000000Z" for number in range(33)},
    ],
    ids=range(10),
)  # fmt: skip
def test_platforms_have_a_shape(base, rules, field, value):
    found = faulty({**base, "requirements": {field: value}}, rules)
    assert found
    assert all(name.startswith(f"requirements.{field}") for name, _ in found)


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("urn", 1, "urn"),
        ("owner", "x", "owner"),
        ("description", "x" * 10241, "description"),
        ("homepage", "ftp://host/", "homepage"),
        ("homepage", "http://", "homepage"),
        ("homepage", "http://[", "homepage"),
        ("homepage", "http://h/\n", "homepage"),
        ("homepage", 1, "homepage"),
        ("eula", "http://h/" + "x" * 1020, "eula"),
        ("icon", "true", "icon"),
        ("state", "nuked", "state"),
        ("error", "x", "error"),
        ("error", {}, "error.message"),
        ("error", {"message": "x", "code": 1}, "error.code"),
        ("disabled", "yes", "disabled"),
        ("disabled", 1, "disabled"),
        ("activated", "true", "activated"),
        ("public", 0, "public"),
        ("published_at", "2012-05-01T12:00Z", "published_at"),
        ("published_at", "2012-05-01T12:00:00.1234567Z", "published_at"),
        ("published_at", "2012-13-01T12:00:00Z", "published_at"),
        ("published_at", "2012-05-01T12:00:00+00:00", "published_at"),
        ("files", [FILE, FILE], "files"),
        ("files", [{**FILE, "dataset_guid": "x"}], "files[0].dataset_guid"),
        ("files", [{**FILE, "dataset_guid": -1}], "files[0].dataset_guid"),
        ("acl", OTHER, "acl"),
        ("requirements", {"cpus": 1}, "requirements"),
        ("requirements", {"networks": [{"name": "net0"}]}, "requirements.networks[0].description"),
        (
            "requirements",
            {"networks": [{"name": "a", "description": "b", "c": 1}]},
            "requirements.networks[0].c",
        ),
        ("requirements", {"brand": 1}, "requirements.brand"),
        ("requirements", {"ssh_key": 1}, "requirements.ssh_key"),
        ("requirements", {"min_ram": "64"}, "requirements.min_ram"),
        ("requirements", {"max_ram": 1.5}, "requirements.max_ram"),
        ("requirements", {"min_ram": 65, "max_ram": 64}, "requirements.min_ram"),
        ("requirements", {"bootrom": "uefi"}, "requirements.bootrom"),
        ("requirements", {"bootrom": "efi", "brand": "bhyve"}, "requirements.bootrom"),
        ("requirements", {"min_platform": {"7.0": "20111231T000000Z"}}, "requirements.min_platform.7.0"),
        ("users", [{}], "users[0].name"),
        ("users", [{"name": "root", "shell": "sh"}], "users[0].shell"),
        ("users", ["root"], "users[0]"),
        ("billing_tags", ["x" * 129], "billing_tags[0]"),
        ("traits", {"a": 1}, "traits.a"),
        ("traits", [], "traits"),
        ("tags", [], "tags"),
        ("tags", {"a": "x" * 102400}, "tags"),
        ("generate_passwords", "yes", "generate_passwords"),
        ("inherited_directories", [1], "inherited_directories[0]"),
        ("nic_driver", "virtio", "nic_driver"),
        ("disk_driver", "virtio", "disk_driver"),
        ("cpu_type", "host", "cpu_type"),
        ("image_size", "large", "image_size"),
        ("image_size", 1.5, "image_size"),
        ("channels", "dev", "channels"),
        ("channels", [1], "channels[0]"),
        ("creator_uuid", OTHER, "creator_uuid"),
        ("creator_uuid", None, "creator_uuid"),
    ],
)
def test_install_checks_every_field_and_import_keeps_them(base, field, value, where):
    document = {**base, field: value}
    assert [name for name, _ in faulty(document, "install")] == [where]
    assert load(document, rules="import").document[field] == value


def test_a_zvol_may_have_drivers_and_may_do_without(zvol):
    assert errors(zvol, "install") == []
    for field in ("nic_driver", "disk_driver", "cpu_type", "image_size"):
        del zvol[field]
    assert errors(zvol, "install") == []
    assert faulty({**zvol, "inherited_directories": ["/opt"]}, "install") == [
        ("inherited_directories", "Invalid")
    ]


def test_an_image_being_made_has_no_type_yet(base):
    assert errors({**base, "state": "creating", "type": "null", "os": "null"}, "install") == []


def test_lxd_may_have_two_files(base):
    assert errors({**base, "type": "lxd", "files": [FILE, FILE]}, "install") == []
    assert faulty({**base, "type": "lxd", "files": [FILE] * 3}, "install") == [("files", "Invalid")]


@pytest.mark.parametrize("kind", ["docker", "lxd"])
def test_a_server_of_containers_has_no_zfs_images(base, kind):
    (fault,) = errors({**base, "type": kind}, "import")
    assert fault == {"field": "type", "code": "Invalid", "message": f"{kind} is not a ZFS image"}
    # `imgadm create` gives an image of a docker machine its type, and a ZFS stream.
    assert errors({**base, "type": kind}, "install") == []


@pytest.mark.parametrize("files", [None, []])
def test_a_server_must_name_the_file(base, files):
    assert faulty({**base, "files": files}, "import") == [("files", "MissingParameter")]
    del base["files"]
    assert faulty(base, "import") == [("files", "MissingParameter")]


def test_only_the_first_file_of_a_server_matters(base):
    document = {**base, "files": [FILE, {"sha1": None}, "x"]}
    assert load(document, rules="import").document["files"] == document["files"]


def test_finer_dates_of_other_servers_are_kept(base):
    published = "2013-05-01T12:00:00.123456789+02:00"
    assert load({**base, "published_at": published}, rules="import").published_at == published


def test_what_is_shown_of_faults_is_bounded(base):
    document = {**base, "acl": ["x"] * 5000, "\x1b]0;title\x07" + "y" * 500: 1}
    with pytest.raises(ManifestValidationError) as caught:
        load(document, rules="install")
    assert len(caught.value.data["errors"]) == 1000
    assert len(caught.value.message) < 2000
    assert caught.value.message.endswith(", and 980 more")
    names = [fault["field"] for fault in errors({**base, "\x1b]0;title\x07" + "y" * 500: 1}, "install")]
    assert len(names[0]) == 64
    assert names[0].startswith("?]0;title?yyy")


@both
@pytest.mark.parametrize("value", [float("nan"), 10**5000, "\ud800", {1: 2}, b"x", ()], ids=range(6))
def test_what_is_not_json_is_no_manifest(base, rules, value):
    with pytest.raises(InvalidManifestError):
        load({**base, "description": value}, rules=rules)


def test_a_manifest_is_not_to_be_changed(base):
    manifest = load(base, rules="import")
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "x"
    assert "description" not in repr(manifest)


# -- anything ------------------------------------------------------------------------------------------------

FIELDS = [
    "v", "uuid", "urn", "owner", "name", "version", "description", "homepage", "eula", "icon", "state",
    "error",
    "disabled", "activated", "public", "published_at", "type", "os", "origin", "files", "acl", "requirements",
    "users", "billing_tags", "traits", "tags", "generate_passwords", "inherited_directories", "nic_driver",
    "disk_driver", "cpu_type", "image_size", "channels", "creator_uuid", "restricted_to_uuid",
]  # fmt: skip
INNER = [
    "sha1", "size", "compression", "dataset_guid", "path", "url", "networks", "min_ram", "max_ram", "brand",
    "bootrom", "min_platform", "max_platform", "name", "description", "message", "7.0",
]  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(
        ["7.0", "zvol", "smartos", "active", "20120101T000000Z", "2012-05-01T12:00:00Z", OTHER, SHA1]
    )
    | st.sampled_from(["gzip", "http://[::1", "http://host:x/", "²", "٠", "http://host/a.gz", "null"])
)
names = st.sampled_from(INNER) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
BASE = json.loads((DATA / "base.imgmanifest").read_text())
documents = st.one_of(
    values,
    st.dictionaries(st.sampled_from(FIELDS) | names, values, max_size=8),
    st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=2).map(
        lambda changes: {**BASE, **changes}
    ),
    st.dictionaries(st.sampled_from(INNER), values, max_size=2).map(
        lambda changes: with_file(BASE, **changes)
    ),
    st.dictionaries(st.sampled_from(INNER), values, max_size=3).map(
        lambda wants: {**BASE, "requirements": wants}
    ),
)


@given(documents, st.sampled_from(["import", "install"]))
def test_anything_is_a_manifest_or_an_error(document, rules):
    before = repr(document)
    with contextlib.suppress(InvalidManifestError, ManifestValidationError):
        manifest = load(document, rules=rules)
        assert isinstance(manifest, Manifest)
        assert manifest.document["v"] >= 2
        shown = f"{manifest.uuid}{manifest.name}{manifest.version}{manifest.state}{manifest.published_at}"
        assert shown.isascii()
        assert shown.isprintable()
        assert manifest.file is not None or rules == "install"
        # What was loaded once can be kept, and loaded again.
        kept = json.dumps({"manifest": manifest.document}, ensure_ascii=False, allow_nan=False).encode()
        assert load(parse(kept)["manifest"], rules=rules) == manifest
    assert repr(document) == before


@given(documents)
def test_what_may_be_installed_may_be_imported(document):
    """But for the file, which a server must have, and for containers."""
    with contextlib.suppress(InvalidManifestError, ManifestValidationError):
        manifest = load(document, rules="install")
        left = {field for field, _ in faulty(dict(manifest.document), "import")}
        assert left <= {"files", "type"}


@pytest.mark.parametrize(("rules", "sha1"), [("install", None), ("import", "0" * 40)])
def test_a_sha1_of_zeros_says_nothing_but_of_an_image_servers_file(rules, sha1):
    document = {**agents_manifest(OTHER, 5), "description": "from Triton's agent"}
    loaded = load(document, rules=rules)
    assert loaded.file == ManifestFile(5, sha1, "gzip", None)
    assert loaded.document["files"][0]["sha1"] == "0" * 40
