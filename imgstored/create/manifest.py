"""The manifest of a new image, from the client's fields, the origin's, and facts about the source.

Pure: no I/O.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import InvalidManifestError, ManifestValidationError, UsageError
from imgstored.manifest import load, parse_list, text_of, upgrade
from imgstored.manifest.document import check_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgstored.manifest import Manifest
    from imgstored.manifest.platform import Platform

#: What an image takes over from its origin, each as a whole, as imgadm does.
_INHERITED: Final = (
    "type",
    "os",
    "requirements",
    "users",
    "billing_tags",
    "traits",
    "generate_passwords",
    "inherited_directories",
    "nic_driver",
    "disk_driver",
    "cpu_type",
    "image_size",
)

#: Fields that are text whatever they look like: version=1.0 is no number. imgadm makes one of it.
_TEXT: Final = frozenset(
    (
        "uuid",
        "urn",
        "owner",
        "name",
        "version",
        "description",
        "homepage",
        "eula",
        "state",
        "published_at",
        "type",
        "os",
        "origin",
        "nic_driver",
        "disk_driver",
        "cpu_type",
    )
)

#: Brands of machines whose programs are the platform image's, and so need one at least as new.
_NATIVE: Final = ("joyent", "joyent-minimal")
#: Brands that an image of theirs asks for.
_REQUIRED: Final = ("bhyve", "lx", "kvm")
_BOOTROMS: Final = ("bios", "uefi")

COMPRESSIONS: Final[Mapping[str, str]] = {
    "none": "",
    "gzip": ".gz",
    "bzip2": ".bz2",
    "xz": ".xz",
    "zstd": ".zst",
}

#: Characters of an argument that a message shows.
_SHOWN: Final = 60
_MIB: Final = 1 << 20

#: Characters of each of the two parts of a file's name, which may have 255 with its extensions.
_MAX_SLUG: Final = 100


class Origin(Struct, frozen=True):
    """The image that the source was cloned from."""

    manifest: Mapping[str, Any]
    incremental: bool  #: the new image is what differs from it


class Source(Struct, frozen=True):
    """The facts about the image's source for its manifest."""

    volume: bool
    size: int  #: bytes; of a volume, the device's
    brand: str | None = None  #: the machine's, where it is one
    bootrom: str | None = None


def given_fields(manifest: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The fields that were given: a manifest, and `field=value` arguments that replace its fields.

    A value is JSON where it can be, and otherwise, or where the field is text, the text. Raises `UsageError`.
    """
    fields = dict(manifest)
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not name or not equals:
            raise UsageError(
                f'invalid field: "{argument[:_SHOWN]}" (must be of the form "field=value")',
                hint="as in `name=web version=1.0.0`",
            )
        fields[name] = _value(name, text)
    return fields


def _value(name: str, text: str) -> Any:
    try:
        values = parse_list(f"[{text}]".encode("utf-8", "replace"))
    except InvalidManifestError:
        return text
    if len(values) != 1 or (name in _TEXT and not isinstance(values[0], str)):
        return text
    return values[0]


def new_manifest(
    fields: Mapping[str, Any],
    source: Source,
    *,
    uuid: str,
    origin: Origin | None = None,
    platform: Platform | None = None,
) -> dict[str, Any]:
    """The new image's manifest, without its files. `uuid` is used unless one is given.

    Raises `ManifestValidationError`, with every fault, and `InvalidManifestError`.
    """
    made: dict[str, Any] = {"v": 2, "uuid": uuid}
    made |= {name: value for name, value in fields.items() if name not in ("v", "files")}
    if origin is not None:
        for name in _INHERITED:
            value = origin.manifest.get(name)
            if name not in made and value is not None and value != []:
                made[name] = value
        if origin.incremental:
            made["origin"] = origin.manifest["uuid"]
    if origin is None or not origin.incremental:
        # Its stream is a whole one, whatever the manifest that was given says.
        made.pop("origin", None)
    made.setdefault("type", _type(source))
    if source.volume and "image_size" not in fields:
        # The device's, which may have been enlarged since it was cloned.
        made["image_size"] = -(-source.size // _MIB)
    requirements = _requirements(made.get("requirements"), fields, source, platform)
    if requirements:
        made["requirements"] = requirements
    check_kind(load(made, rules="create"), volume=source.volume)
    return made


def check_kind(manifest: Manifest, *, volume: bool) -> None:
    """Raises `ManifestValidationError` where a volume is called a dataset, or a dataset a volume."""
    if volume != (manifest.type == "zvol") and manifest.type != "other":
        what = "a volume" if volume else "a filesystem"
        message = f"what it is made of is {what}"
        raise ManifestValidationError(
            f"invalid manifest: type ({message})",
            hint="a volume's type is \"zvol\", and no filesystem's",
            data={"errors": [{"field": "type", "code": "Invalid", "message": message}]},
        )


def _type(source: Source) -> str:
    if source.volume:
        return "zvol"
    return "lx-dataset" if source.brand == "lx" else "zone-dataset"


def _requirements(
    value: Any, fields: Mapping[str, Any], source: Source, platform: Platform | None
) -> dict[str, Any] | None:
    """Adds the requirements of a machine's brand, unless they are given."""
    if value is not None and not isinstance(value, dict):
        return None  # a fault, which stays, and is reported with the others
    made = dict(value or {})
    own = fields.get("requirements")
    given = own if isinstance(own, dict) else {}
    if source.brand in _NATIVE and platform is not None and not given.get("min_platform"):
        made["min_platform"] = {platform.version: platform.timestamp}
    if source.brand in _REQUIRED and "brand" not in given:
        made["brand"] = source.brand
    if source.brand == "bhyve" and source.bootrom in _BOOTROMS and "bootrom" not in given:
        made["bootrom"] = source.bootrom
    return made


def restoring(manifest: Mapping[str, Any], *, uuid: str, origin: str | None) -> dict[str, Any]:
    """The manifest with which an installed image can be installed elsewhere, without its files.

    What was installed may have come from a server of any kind, or be what imgadm left, and is kept. What
    decides is made true: the version, the uuid, and the origin that the stream is based on, which are the
    pool's. Raises `InvalidManifestError` for one that is nested too deeply to be installed anywhere.
    """
    check_document(dict(manifest))
    try:
        new = upgrade(manifest)
    except InvalidManifestError:
        new = {**manifest, "v": 2}
    new |= {"uuid": uuid}
    new.pop("files", None)
    if origin is not None:
        new["origin"] = origin
    elif new.get("origin"):
        del new["origin"]
    return new


def file_prefix(manifest: Mapping[str, Any]) -> str:
    """The default name of an image's files, without extensions: NAME-VERSION; never a path.

    Each is text whatever it is, and shortened; an image without a name is called by its uuid.
    """
    name, version = (_slug(text_of(manifest.get(field)))[:_MAX_SLUG] for field in ("name", "version"))
    if not name.strip("-."):
        name = _slug(text_of(manifest.get("uuid")))[:_MAX_SLUG]
    return f"{name}-{version}"


def _slug(text: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9_ \t._-]", "", text).strip().lower()
    return re.sub(r"[\s-]+", "-", kept)


def file_suffix(manifest: Mapping[str, Any], compression: str) -> str:
    """`.zfs` or `.zvol`, and the compression's."""
    return (".zvol" if manifest.get("type") == "zvol" else ".zfs") + COMPRESSIONS[compression]


def check_compression(compression: str, *, index: bool = False) -> str:
    """The compression, if it is one; otherwise raises `UsageError`. "gz" and "bz2" are imgadm's, too.

    `index`: the file is to have an index, which not every compression can have.
    """
    known = {"gz": "gzip", "bz2": "bzip2"}.get(compression, compression)
    if known not in COMPRESSIONS:
        names = ", ".join(f'"{name}"' for name in COMPRESSIONS)
        raise UsageError(
            f'invalid -c,--compression "{compression[:_SHOWN]}": must be one of {names}',
            hint="gzip is read everywhere, zstd is quickest",
        )
    if index and known != "zstd":
        raise UsageError(f'a file that is compressed by "{known}" has no index', hint="use -c zstd")
    return known
