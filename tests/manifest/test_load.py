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
from tests.support import any_manifests
from tests.support.triton_agent import agents_manifest

DATA = Path(__file__).parent.parent / "data"
SHA1 = "4225e44835795df43017e20991de1c59203a6363"
OTHER = "11111111-aaaa-4bbb-8ccc-0000000000ff"
FILE = {"sha1": SHA1, "size": 1, "compression": "gzip"}

every = pytest.mark.parametrize("rules", ["import", "install", "create"])
lenient = pytest.mark.parametrize("rules", ["import", "install"])


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


@every
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
    assert errors(document, "create") == []
    assert load(document, rules="create").document == document


@pytest.mark.parametrize(
    "published", ["2012-05-01T12:00:00Z", "2012-05-01T12:00:00.123Z", "2024-02-29T00:00:00Z"]
)
def test_dates_as_imgapi_has_them(base, published):
    assert errors({**base, "published_at": published}, "create") == []


def test_null_is_as_good_as_absent(base):
    manifest = load({**base, "origin": None, "published_at": None, "requirements": None}, rules="create")
    assert (manifest.origin, manifest.published_at) == (None, None)
    assert faulty({**base, "name": None}, "create") == [("name", "MissingParameter")]


def test_a_manifest_to_install_may_leave_its_file_to_the_command(base):
    del base["files"]
    assert load(base, rules="create").file is None
    assert load({**base, "files": []}, rules="create").file is None


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
        load(document, rules="create")
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
        load({**base, "foo": 1, "name": "*"}, rules="create")
    assert caught.value.message == (
        "invalid manifest: uuid (MissingParameter), "
        "name (may only have letters, digits, spaces and ._/-), foo"
    )


@pytest.mark.parametrize("field", ["uuid", "name", "version", "type", "os"])
def test_required_fields(base, field):
    del base[field]
    assert faulty(base, "create") == [(field, "MissingParameter")]


@lenient
def test_only_the_uuid_is_required_of_what_others_made(base, rules):
    del base["uuid"]
    assert faulty(base, rules) == [("uuid", "MissingParameter")]


@every
@pytest.mark.parametrize("version", [True, False, 0, -1, 1.5, "x", "", "1", [], {}, float("nan")])
def test_a_manifest_has_a_version(base, rules, version):
    with pytest.raises(InvalidManifestError):
        load({**base, "v": version}, rules=rules)


@every
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uuid", 1), ("uuid", "../../../../tmp/x"), ("uuid", OTHER + "\n"), ("uuid", OTHER.upper() + "0"),
        ("origin", "x"), ("origin", 1), ("origin", True), ("origin", [OTHER]), ("origin", "../x"),
        ("origin", "11111111-aaaa-4bbb-8ccc-000000000001"),
        ("origin", "11111111-AAAA-4BBB-8CCC-000000000001"),
        ("files", {}), ("files", "x"), ("files", [None]), ("files", [[]]),
    ],
)  # fmt: skip
def test_what_decides_is_checked_by_all_rules(base, rules, field, value):
    found = faulty({**base, field: value}, rules)
    assert found
    assert all(name.startswith(field) for name, _ in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", "2"), ("v", 2.0),
        ("name", 1), ("name", ""), ("name", "x" * 1025), ("name", "a\nb"), ("name", "é"), ("name", ["a"]),
        ("version", 1.0), ("version", ""), ("version", "1 0"), ("version", "x" * 513),
        ("version", "1\x1b[0m"),
        ("type", "vm"), ("type", None), ("type", ["zvol"]), ("type", "null"),
        ("os", "plan9"), ("os", 1), ("os", "null"),
        ("origin", False), ("origin", ""),
        ("state", 1), ("state", "active\n"), ("state", "x" * 100),
        ("published_at", 1335873600), ("published_at", "\x1b]0;x\x07"),
        ("requirements", []), ("requirements", "x"),
    ],
)  # fmt: skip
def test_what_only_describes_is_checked_of_a_new_image(base, field, value):
    found = faulty({**base, field: value}, "create")
    assert found
    assert all(name.startswith(field) for name, _ in found)
    for rules in ("import", "install"):
        manifest = load({**base, field: value}, rules=rules)
        assert manifest.document[field] == value
        assert manifest.odd


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
def test_the_files_fields(base, field, value):
    code = "MissingParameter" if value is None else "Invalid"
    assert faulty(with_file(base, **{field: value}), "create") == [(f"files[0].{field}", code)]


@lenient
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha1", SHA1[1:]), ("sha1", SHA1 + "0"), ("sha1", SHA1[1:] + "g"), ("sha1", 1), ("sha1", [SHA1]),
        ("size", None), ("size", 0), ("size", -1), ("size", True), ("size", 1.5), ("size", "x"),
        ("size", "1" * 5000), ("size", "-1"), ("size", [1]), ("size", 2**40 + 1), ("size", 1e300),
    ],
)  # fmt: skip
def test_which_bytes_are_meant_must_be_sure(base, rules, field, value):
    code = "MissingParameter" if value is None else "Invalid"
    assert (f"files[0].{field}", code) in faulty(with_file(base, **{field: value}), rules)


@lenient
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sha1": SHA1.upper()}, ManifestFile(1, SHA1, "gzip", None)),
        ({"sha1": None}, ManifestFile(1, None, "gzip", None)),
        ({"sha1": ""}, ManifestFile(1, None, "gzip", None)),
        ({"size": 5.0}, ManifestFile(5, SHA1, "gzip", None)),
        ({"size": "210207"}, ManifestFile(210207, SHA1, "gzip", None)),
        ({"compression": None}, ManifestFile(1, SHA1, None, None)),
        ({"compression": "brotli"}, ManifestFile(1, SHA1, "brotli", None)),
        ({"compression": {}}, ManifestFile(1, SHA1, None, None)),
    ],
)
def test_what_a_file_may_be_all_the_same(base, rules, fields, expected):
    manifest = load(with_file(base, **fields), rules=rules)
    assert manifest.file == expected
    assert manifest.document["files"] == [{**FILE, **fields}]
    assert manifest.odd


@lenient
def test_uuids_in_upper_case_are_the_same(base, rules):
    """They name datasets, and imgadm looks for these in lower case."""
    manifest = load({**base, "uuid": base["uuid"].upper(), "origin": OTHER.upper()}, rules=rules)
    assert (manifest.uuid, manifest.origin) == (base["uuid"], OTHER)
    assert manifest.document == {**base, "origin": OTHER}


@pytest.mark.parametrize("origin", ["", False, 0, None])
def test_an_origin_that_is_empty_is_none(base, origin):
    assert load({**base, "origin": origin}, rules="import").origin is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (None, "-"), (["a", 1], '["a",1]'), ({}, "{}"),
        ("a\x1b[2Jb\n", "a?[2Jb?"), ("\u202eevil", "?evil"), ("größe", "größe"), ("", ""),
        ("x" * 2000, "x" * 1023 + "…"), (-(2**63), "-9223372036854775808"), (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_what_is_shown_is_text(base, value, text):
    manifest = load({**base, "name": value, "version": value, "os": value, "type": value}, rules="import")
    assert [manifest.name, manifest.version, manifest.os, manifest.type] == [text] * 4
    assert manifest.document["name"] == value


def test_what_is_refused_at_all_is_refused_with_all_that_imgadm_finds(base):
    """In its order, and by its words."""
    del base["uuid"]
    with pytest.raises(ManifestValidationError) as caught:
        load({**base, "foo": 1, "name": "*"}, rules="install")
    assert caught.value.message == (
        "invalid manifest: uuid (MissingParameter), "
        "name (may only have letters, digits, spaces and ._/-), foo"
    )


def test_what_is_told_of_oddities_is_bounded(base):
    document = {**base, **{f"x{number}\x1b": number for number in range(100)}}
    odd = load(document, rules="import").odd
    assert len(odd) == 20
    assert all(map(str.isprintable, odd))


@lenient
def test_a_good_manifest_is_not_odd(base, rules):
    assert load(base, rules=rules).odd == ()


@every
@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd", "none"])
def test_the_compressions(base, rules, compression):
    assert errors(with_file(base, compression=compression, size=2**40), rules) == []


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
def test_platforms_have_a_shape(base, field, value):
    found = faulty({**base, "requirements": {field: value}}, "create")
    assert found
    assert all(name.startswith(f"requirements.{field}") for name, _ in found)
    for rules in ("import", "install"):
        # What is none asks for nothing: tests/manifest/test_platform.py.
        assert load({**base, "requirements": {field: value}}, rules=rules).odd


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
def test_every_field_of_a_new_image_is_checked_and_others_are_kept(base, field, value, where):
    document = {**base, field: value}
    assert [name for name, _ in faulty(document, "create")] == [where]
    assert load(document, rules="import").document[field] == value
    if field != "files" or len(value) < 2:
        assert load(document, rules="install").document[field] == value


def test_a_zvol_may_have_drivers_and_may_do_without(zvol):
    assert errors(zvol, "create") == []
    for field in ("nic_driver", "disk_driver", "cpu_type", "image_size"):
        del zvol[field]
    assert errors(zvol, "create") == []
    assert faulty({**zvol, "inherited_directories": ["/opt"]}, "create") == [
        ("inherited_directories", "Invalid")
    ]


def test_an_image_being_made_has_no_type_yet(base):
    assert errors({**base, "state": "creating", "type": "null", "os": "null"}, "create") == []


@lenient
def test_only_one_file_is_installed(base, rules):
    assert bool(errors({**base, "files": [FILE, FILE]}, rules)) == (rules == "install")


def test_lxd_may_have_two_files(base):
    assert errors({**base, "type": "lxd", "files": [FILE, FILE]}, "create") == []
    assert faulty({**base, "type": "lxd", "files": [FILE] * 3}, "create") == [("files", "Invalid")]


def test_what_a_server_calls_lxd_is_no_zfs_image(base):
    (fault,) = errors({**base, "type": "lxd"}, "import")
    assert fault == {"field": "type", "code": "Invalid", "message": "lxd is not a ZFS image"}
    assert errors({**base, "type": "lxd"}, "create") == []
    assert errors({**base, "type": "lxd"}, "install") == []


@pytest.mark.parametrize("rules", ["import", "create", "install"])
def test_a_container_image(base, rules):
    """A server has its layer; `imgadm create` makes a stream of a docker machine, and gives it the type."""
    assert errors({**base, "type": "docker"}, rules) == []


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
        load(document, rules="create")
    assert len(caught.value.data["errors"]) == 1000
    assert len(caught.value.message) < 2000
    assert caught.value.message.endswith(", and 980 more")
    names = [fault["field"] for fault in errors({**base, "\x1b]0;title\x07" + "y" * 500: 1}, "create")]
    assert len(names[0]) == 64
    assert names[0].startswith("?]0;title?yyy")


@every
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

documents = any_manifests.anything | any_manifests.objects(any_manifests.anything)
documents |= any_manifests.changed(any_manifests.anything)


@given(documents, st.sampled_from(["import", "install", "create"]))
def test_anything_is_a_manifest_or_an_error(document, rules):
    before = repr(document)
    with contextlib.suppress(InvalidManifestError, ManifestValidationError):
        manifest = load(document, rules=rules)
        assert isinstance(manifest, Manifest)
        assert float(manifest.document["v"]) >= 2
        shown = f"{manifest.uuid}{manifest.name}{manifest.version}{manifest.state}{manifest.published_at}"
        assert shown.isprintable()
        assert rules != "create" or shown.isascii()
        assert manifest.file is not None or rules != "import"
        # What was loaded once can be kept, and loaded again.
        kept = json.dumps({"manifest": manifest.document}, ensure_ascii=False, allow_nan=False).encode()
        assert load(parse(kept)["manifest"], rules=rules) == manifest
    assert repr(document) == before


@given(documents)
def test_what_may_be_made_may_be_installed_and_what_may_be_imported_too(document):
    for rules in ("create", "import"):
        with contextlib.suppress(InvalidManifestError, ManifestValidationError):
            manifest = load(document, rules=rules)
            assert {field for field, _ in faulty(dict(manifest.document), "install")} <= {"files"}


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
