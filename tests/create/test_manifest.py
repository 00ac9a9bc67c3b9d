from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.create.manifest import (
    Origin,
    Source,
    check_compression,
    file_prefix,
    file_suffix,
    given_fields,
    new_manifest,
    restoring,
)
from imgstored.errors import ManifestValidationError, UsageError
from imgstored.manifest import load
from imgstored.manifest.platform import Platform

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
OTHER = "11111111-aaaa-4bbb-8ccc-000000000002"
FIELDS = {"name": "web", "version": "1.0", "os": "smartos"}
FILESYSTEM, VOLUME = Source(volume=False, size=5), Source(volume=True, size=(10 << 20) + 1)


def inherited(**fields):
    return Origin({"v": 2, "uuid": OTHER, "name": "base", "version": "9", **fields}, incremental=False)


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("version=1.0", "version", "1.0"),
        ("version=20200101", "version", "20200101"),
        ("name=true", "name", "true"),
        ("os=linux", "os", "linux"),
        ("description=null", "description", "null"),
        ('description="in JSON"', "description", "in JSON"),
        ("description=a=b", "description", "a=b"),
        ("description=", "description", ""),
        ("homepage=http://example.com/?a=1", "homepage", "http://example.com/?a=1"),
        ("public=true", "public", True),
        ("image_size=10240", "image_size", 10240),
        ('tags={"role":"os"}', "tags", {"role": "os"}),
        ("image_size=1,2", "image_size", "1,2"),
        ("tags={broken", "tags", "{broken"),
    ],
)
def test_a_value_is_json_but_where_the_field_is_text(argument, field, value):
    assert given_fields({}, [argument]) == {field: value}


def test_arguments_replace_what_the_manifest_says():
    assert given_fields({"name": "a", "os": "bsd"}, ["name=b", "name=c"]) == {"name": "c", "os": "bsd"}


@pytest.mark.parametrize("argument", ["name", "=web", ""])
def test_no_field(argument):
    with pytest.raises(UsageError, match='must be of the form "field=value"'):
        given_fields({}, [argument])


@given(st.text(), st.text())
def test_any_argument_is_a_field_or_refused(name, value):
    try:
        fields = given_fields({}, [f"{name}={value}"])
    except UsageError:
        assert not name.partition("=")[0]
    else:
        assert len(fields) == 1


def test_of_a_filesystem_without_an_origin():
    made = new_manifest({**FIELDS, "v": 1, "files": [1]}, FILESYSTEM, uuid=UUID)
    assert made == {"v": 2, "uuid": UUID, **FIELDS, "type": "zone-dataset"}


def test_of_a_volume():
    made = new_manifest({**FIELDS, "uuid": OTHER}, VOLUME, uuid=UUID)
    assert made == {"v": 2, "uuid": OTHER, **FIELDS, "type": "zvol", "image_size": 11}


def test_what_comes_from_the_origin():
    """Each field as a whole, but for what is given and what is empty."""
    above = inherited(
        type="zone-dataset",
        os="linux",
        requirements={"networks": [], "min_ram": 64},
        users=[{"name": "root"}],
        billing_tags=[],
        generate_passwords=False,
        description="of base",
        tags={"role": "os"},
    )
    made = new_manifest(FIELDS, FILESYSTEM, uuid=UUID, origin=above)
    assert made == {
        "v": 2,
        "uuid": UUID,
        **FIELDS,
        "type": "zone-dataset",
        "requirements": {"networks": [], "min_ram": 64},
        "users": [{"name": "root"}],
        "generate_passwords": False,
    }
    assert list(made)[:2] == ["v", "uuid"]


def test_an_incremental_one_names_its_origin_and_a_whole_one_none():
    above = Origin({"uuid": OTHER, "type": "zone-dataset"}, incremental=True)
    fields = {**FIELDS, "origin": UUID.replace("1", "3")}
    assert new_manifest(fields, FILESYSTEM, uuid=UUID, origin=above)["origin"] == OTHER
    assert "origin" not in new_manifest(fields, FILESYSTEM, uuid=UUID)
    assert "origin" not in new_manifest(fields, FILESYSTEM, uuid=UUID, origin=inherited())


def test_a_volume_that_was_enlarged():
    above = inherited(type="zvol", image_size=5, disk_driver="ide", nic_driver="e1000")
    made = new_manifest(FIELDS, VOLUME, uuid=UUID, origin=above)
    assert (made["image_size"], made["disk_driver"]) == (11, "ide")
    assert new_manifest({**FIELDS, "image_size": 7}, VOLUME, uuid=UUID, origin=above)["image_size"] == 7


PLATFORM = Platform("7.0", "20260101T000000Z")


@pytest.mark.parametrize(
    ("brand", "fields", "requirements", "type_"),
    [
        ("joyent", {}, {"min_platform": {"7.0": "20260101T000000Z"}}, "zone-dataset"),
        (
            "joyent-minimal",
            {"requirements": {"min_platform": {"7.0": "20150101T000000Z"}}},
            {"min_platform": {"7.0": "20150101T000000Z"}},
            "zone-dataset",
        ),
        ("lx", {}, {"brand": "lx"}, "lx-dataset"),
        ("lx", {"requirements": {"brand": "joyent"}}, {"brand": "joyent"}, "lx-dataset"),
        ("bhyve", {}, {"brand": "bhyve", "bootrom": "uefi"}, "zvol"),
        ("kvm", {"requirements": {"min_ram": 5}}, {"min_ram": 5, "brand": "kvm"}, "zvol"),
        (None, {}, None, "zone-dataset"),
    ],
)
def test_what_a_machine_of_a_brand_asks_for(brand, fields, requirements, type_):
    source = Source(volume=type_ == "zvol", size=1, brand=brand, bootrom="uefi")
    made = new_manifest({**FIELDS, **fields}, source, uuid=UUID, platform=PLATFORM)
    assert (made.get("requirements"), made["type"]) == (requirements, type_)


@pytest.mark.parametrize(
    ("fields", "source", "words"),
    [
        ({"name": "web"}, FILESYSTEM, r"version \(MissingParameter\), os \(MissingParameter\)"),
        ({**FIELDS, "foo": 1}, FILESYSTEM, "invalid manifest: foo"),
        ({**FIELDS, "uuid": "X"}, FILESYSTEM, "uuid"),
        ({**FIELDS, "requirements": 1}, FILESYSTEM, "requirements"),
        ({**FIELDS, "type": "zvol"}, FILESYSTEM, "what it is made of is a filesystem"),
        ({**FIELDS, "type": "zone-dataset"}, VOLUME, "what it is made of is a volume"),
        ({**FIELDS, "disk_driver": "virtio"}, FILESYSTEM, "only for type zvol"),
    ],
)
def test_faults(fields, source, words):
    with pytest.raises(ManifestValidationError, match=words):
        new_manifest(fields, source, uuid=UUID)


@pytest.mark.parametrize(
    ("name", "version", "prefix"),
    [
        ("web", "1.0.0", "web-1.0.0"),
        ("My Web  Server", "1.0+B", "my-web-server-1.0b"),
        ("a/../../etc/passwd", "1/2", "a....etcpasswd-12"),
        ("a--b - c", "x", "a-b-c-x"),
    ],
)
def test_what_files_are_called(name, version, prefix):
    assert file_prefix({"name": name, "version": version}) == prefix


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        ({"name": "web", "version": 1}, "web-1"),
        ({"name": 5, "version": True}, "5-true"),
        ({"name": "web"}, "web--"),
        ({"version": "1"}, f"{UUID}-1"),
        ({"name": "日本", "version": "1"}, f"{UUID}-1"),
        ({"name": "..", "version": "."}, f"{UUID}-."),
        ({"name": {"a": 1}, "version": []}, "a1-"),
        ({"name": "x" * 1024, "version": "y" * 512}, "x" * 100 + "-" + "y" * 100),
    ],
)
def test_files_are_named_after_the_image_whatever_it_is_called(fields, prefix):
    assert file_prefix({"uuid": UUID, **fields}) == prefix


@pytest.mark.parametrize(
    ("manifest", "origin", "restored"),
    [
        ({"v": 2, "name": "a", "version": 1}, None, {"v": 2, "name": "a", "version": 1}),
        ({"name": "a"}, None, {"name": "a", "v": 2}),
        ({"v": "x", "uuid": "y", "origin": OTHER}, None, {"v": 2}),
        ({"v": 3, "origin": 5, "files": 7}, OTHER, {"v": 3, "origin": OTHER}),
        ({"v": "2", "origin": None}, None, {"v": "2", "origin": None}),
        ({"v": 2}, OTHER, {"v": 2, "origin": OTHER}),
        ({"creator_uuid": 1, "owner": 2}, None, {"creator_uuid": 1, "owner": 2, "v": 2}),
    ],
)
def test_what_restores_an_image_is_true_where_it_decides(manifest, origin, restored):
    assert restoring(manifest, uuid=UUID, origin=origin) == {**restored, "uuid": UUID}


def test_what_restores_an_image_of_version_1_is_version_2():
    restored = restoring({"creator_uuid": OTHER, "name": "a"}, uuid=UUID, origin=None)
    assert (restored["v"], restored["owner"], restored["uuid"]) == (2, OTHER, UUID)


@given(st.text(), st.text())
def test_a_file_is_never_called_by_a_path(name, version):
    prefix = file_prefix({"name": name, "version": version})
    assert "/" not in prefix
    assert prefix.isascii()
    assert prefix.isprintable()
    assert prefix not in (".", "..")


def test_extensions():
    assert file_suffix({"type": "zvol"}, "xz") == ".zvol.xz"
    assert file_suffix({"type": "zone-dataset"}, "none") == ".zfs"
    assert file_suffix({"type": "other"}, "bzip2") == ".zfs.bz2"


def test_compressions():
    assert [check_compression(name) for name in ("gz", "bz2", "zstd")] == ["gzip", "bzip2", "zstd"]
    with pytest.raises(UsageError, match='invalid -c,--compression "lz4": must be one of "none", "gzip"'):
        check_compression("lz4")


def test_what_is_made_can_be_installed():
    made = new_manifest(FIELDS, VOLUME, uuid=UUID)
    made["files"] = [{"sha1": "0" * 40, "size": 1, "compression": "zstd", "dataset_guid": "5"}]
    for rules in ("create", "install", "import"):
        load(made, rules=rules)
