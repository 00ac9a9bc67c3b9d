"""The rules for v2 manifests, in three measures.

`import`: a manifest that an image server gave. Only what decides which bytes are meant and where they go is a
fault here: uuid, origin, and the file's size and SHA-1. Everything else is taken and kept as it came, as
`imgadm import` takes it, which checks nothing.

`install`: a manifest that comes with a file, which may be one that we have exported: the same, but the file
need not be described. imgadm refuses more (node-imgmanifest, validateMinimalManifest).

`create`: the manifest of a new image. Every field is checked, as imgadm checks it there, and a field that
nobody knows is a fault. What this finds in the others' manifests is odd, and no fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

from imgstored.manifest.fields import (
    Check,
    Fault,
    any_of_types,
    array,
    date,
    either,
    flag,
    given,
    integer,
    invalid,
    json_object,
    members,
    one_of,
    table,
    text,
    url,
    uuid,
)
from imgstored.manifest.values import whole_number

Rules = Literal["import", "install", "create"]

#: Bytes of an image file: IMGAPI takes 20 GiB (MAX_IMAGE_SIZE); this leaves room for servers of other kinds.
MAX_FILE_SIZE: Final = 1 << 40

REQUIRED: Final = ("v", "uuid", "name", "version", "type", "os")

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")

_SAFE_INTEGER = (1 << 53) - 1  #: JavaScript's

_version = integer(2, _SAFE_INTEGER)
_name = text(1024, r"[A-Za-z0-9._/ -]+", "may only have letters, digits, spaces and ._/-")
_image_version = text(512, r"[A-Za-z0-9._/+-]+", "may only have letters, digits and ._/+-")
_type = one_of("zone-dataset", "lx-dataset", "zvol", "docker", "lxd", "other", "null")
_os = one_of("smartos", "linux", "windows", "bsd", "illumos", "other", "null")
_string = text()

_file = members(
    {
        "sha1": text(40, r"[0-9a-f]{40}", "not 40 hexadecimal digits in lower case"),
        "size": integer(1, MAX_FILE_SIZE),
        # zstd is ours.
        "compression": one_of("gzip", "bzip2", "xz", "none", "zstd"),
    },
    required=("sha1", "size", "compression"),
)
_checked_file = members(
    {"dataset_guid": either(text(20, r"[0-9]+", "not a number"), integer(0, (1 << 64) - 1))},
)


def _described_file(field: str, value: Any) -> Iterator[Fault]:
    yield from _file(field, value)
    if isinstance(value, dict):
        yield from _checked_file(field, value)


def _platforms(timestamp: str, what: str) -> Check:
    """{SDC version: time stamp of a platform image}."""
    versions = text(20, r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", "not named by a version such as 7.0")
    return table(versions, text(16, timestamp, what), most=32, empty=False)


_platforms_since_2012 = _platforms(
    r"(201[2-9]|20[2-9][0-9]|2[1-9][0-9]{2}|[3-9][0-9]{3})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])T[0-9]{6}Z",
    "not a platform's time stamp, of 2012 or later, such as 20120101T000000Z",
)


def _surplus(field: str, name: str) -> Fault:
    return invalid(f"{field}.{name}", "not known")


def _unsupported_requirement(field: str, name: str) -> Fault:
    return invalid(field, f'unsupported requirement "{name}"')


def _unknown_field(_: str, name: str) -> Fault:
    return invalid(name)


_requirements = members(
    {
        "networks": array(
            members(
                {"name": _string, "description": _string}, required=("name", "description"), unknown=_surplus
            )
        ),
        "brand": _string,
        "ssh_key": flag(),
        "min_ram": integer(0, _SAFE_INTEGER),  # MiB
        "max_ram": integer(0, _SAFE_INTEGER),
        "min_platform": _platforms_since_2012,
        "max_platform": _platforms_since_2012,
        "bootrom": one_of("bios", "uefi"),
    },
    unknown=_unsupported_requirement,
)

_CREATE: Final = members(
    {
        "v": _version,
        "uuid": uuid,
        "urn": _string,
        "owner": uuid,
        "name": _name,
        "version": _image_version,
        "description": text(10240),
        "homepage": url(1024),
        "eula": url(1024),
        "icon": flag(),
        "state": one_of("active", "unactivated", "disabled", "failed", "creating"),
        "error": members({"message": _string, "code": _string, "stack": _string}, required=("message",)),
        "disabled": flag("true", "false"),
        "activated": flag(),
        "public": flag(),
        "published_at": date,
        "type": _type,
        "os": _os,
        "origin": uuid,
        "files": array(_described_file),
        "acl": array(uuid),
        "requirements": _requirements,
        "users": array(members({"name": _string}, required=("name",), unknown=_surplus)),
        "billing_tags": array(text(128)),
        "traits": table(_string, any_of_types(str, bool, list), most=1000),
        "tags": json_object(102400),
        "generate_passwords": flag(),
        "inherited_directories": array(_string),
        "nic_driver": _string,
        "disk_driver": _string,
        "cpu_type": _string,
        "image_size": either(integer(0, _SAFE_INTEGER), text(15, r"[0-9]+", "not a number")),  # MiB
        "channels": array(_string),
    },
    required=REQUIRED,
    unknown=_unknown_field,
)


def _size(field: str, value: Any) -> Iterator[Fault]:
    """A number of bytes, which may be written as 5.0 or "5": imgadm compares them as equal."""
    whole = whole_number(value)
    yield from integer(1, MAX_FILE_SIZE)(field, value if whole is None else whole)


def _sha1(field: str, value: Any) -> Iterator[Fault]:
    """In either case. One that is empty is none."""
    if value:
        yield from text(40, r"[0-9a-fA-F]{40}", "not 40 hexadecimal digits")(field, value)


def _origin(field: str, value: Any) -> Iterator[Fault]:
    """One that is empty is none."""
    if value:
        yield from uuid(field, value)


_bytes = members({"size": _size, "sha1": _sha1}, required=("size",))


def _first_file(field: str, value: Any) -> Iterator[Fault]:
    yield from array(_bytes)(field, value[:1] if isinstance(value, list) else value)


#: What decides which bytes are meant, and where they go. `v` is the upgrade's.
_DECIDING: Final = members({"uuid": uuid, "origin": _origin, "files": _first_file}, required=("uuid",))


# -- how fields go together ----------------------------------------------------------------------------------


def _being_made(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Type and os may be "null" only while the server makes the image, or could not make it."""
    if document.get("state") not in ("creating", "failed"):
        for field in ("type", "os"):
            if document.get(field) == "null":
                yield invalid(field, '"null" is for images in state creating or failed')


def _own_origin(document: Mapping[str, Any]) -> Iterator[Fault]:
    origin = document.get("origin")
    if isinstance(origin, str) and origin == document.get("uuid"):
        yield invalid("origin", "an image cannot be its own origin")


def _file_given(document: Mapping[str, Any]) -> Iterator[Fault]:
    if document.get("files") in (None, []):
        yield Fault("files", "MissingParameter")


def _zfs_image(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Refuses the type `lxd`: some servers' name of a squashfs."""
    if document.get("type") == "lxd":
        yield invalid("type", "lxd is not a ZFS image")


def _number_of_files(document: Mapping[str, Any]) -> Iterator[Fault]:
    files = document.get("files")
    most = 2 if document.get("type") == "lxd" else 1
    if isinstance(files, list) and len(files) > most:
        yield invalid("files", f"more than {most} for this type")


def _zvol_only(document: Mapping[str, Any]) -> Iterator[Fault]:
    if document.get("type") == "zvol":
        return
    for field in ("nic_driver", "disk_driver", "cpu_type"):
        if document.get(field):
            yield invalid(field, "only for type zvol")


def _zone_dataset_only(document: Mapping[str, Any]) -> Iterator[Fault]:
    if document.get("inherited_directories") and document.get("type") != "zone-dataset":
        yield invalid("inherited_directories", "only for type zone-dataset")


def _requirements_together(document: Mapping[str, Any]) -> Iterator[Fault]:
    wants = document.get("requirements")
    if not isinstance(wants, dict):
        return
    least, most = wants.get("min_ram"), wants.get("max_ram")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield invalid("requirements.min_ram", "more than max_ram")
    if given(wants.get("bootrom")) and wants.get("brand") != "bhyve":
        yield invalid("requirements.bootrom", "only for brand bhyve")


_Together = Callable[[Mapping[str, Any]], Iterator[Fault]]

_TOGETHER: Final[Mapping[Rules, tuple[_Together, ...]]] = {
    "import": (_own_origin, _file_given, _zfs_image),
    "install": (_own_origin, _number_of_files),
    "create": (
        _being_made,
        _own_origin,
        _number_of_files,
        _zvol_only,
        _zone_dataset_only,
        _requirements_together,
    ),
}

_FIELDS: Final[Mapping[Rules, Check]] = {"import": _DECIDING, "install": _DECIDING, "create": _CREATE}


def _has_digest(document: Mapping[str, Any]) -> bool:
    return document.get("type") == "docker" or sha256_of(document["files"][0]) is not None


def sha256_of(file: Mapping[str, Any]) -> str | None:
    """The SHA-256 of a file in its digest, which is written as in registries; None where it has none."""
    digest = file.get("digest")
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    return None if found is None else found[1]


_NO_SHA1: Final = Fault("files[0].sha1", "MissingParameter")


def faults(document: Mapping[str, Any], rules: Rules) -> Iterator[Fault]:
    """Everything that is wrong with a v2 document: first field by field, then what does not go together."""
    for fault in _FIELDS[rules]("", document):
        # A registry knows the files of its images by SHA-256.
        if fault != _NO_SHA1 or not _has_digest(document):
            yield fault
    for together in _TOGETHER[rules]:
        yield from together(document)
