"""A manifest that has been checked: what the rest of imgstored works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from imgstored.errors import ManifestValidationError
from imgstored.manifest.document import check_document
from imgstored.manifest.rules import Rules, faults, sha256_of
from imgstored.manifest.upgrade import upgrade
from imgstored.manifest.values import in_lower_case, shown_text, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.manifest.fields import Fault

#: Faults that are looked for. Whoever made more did not try to write a manifest.
MAX_FAULTS: Final = 1000

#: Faults that the message names; the error's data has them all.
_IN_MESSAGE: Final = 20

#: Oddities that are listed.
_MAX_ODD: Final = 20

#: JavaScript, and so IMGAPI, rounds larger integers.
_MAX_EXACT: Final = (1 << 53) - 1

#: Of the types of ZFS images; "other" is whatever its publisher means.
_DATASETS: Final[Mapping[str, Literal["filesystem", "volume"]]] = {
    "zone-dataset": "filesystem",
    "lx-dataset": "filesystem",
    "zvol": "volume",
}

#: What Triton's agent writes into the manifest of an image whose file it knows by SHA-256 alone.
_NO_SHA1: Final = "0" * 40

_HINTS: Final[Mapping[Rules, str]] = {
    "import": "the image server's manifest is faulty: use another source, or tell its operator",
    "install": "correct these fields of the manifest",
    "create": "correct these fields of the manifest",
}


class FileIndex(Struct, frozen=True):
    """The index beside the image's file."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=1, le=1 << 40)]  #: bytes


class ManifestFile(Struct, frozen=True):
    """The image's file."""

    size: int | None  #: bytes, compressed
    #: Lower-case hexadecimal; None where the manifest has none, or Triton's agent wrote zeros.
    sha1: str | None
    compression: str | None  #: mostly gzip, bzip2, xz, zstd or none; the file itself says what it is
    dataset_guid: int | None  #: of the snapshot in the stream; None also where it may have been rounded
    index: FileIndex | None = None  #: None also where it is not one
    sha256: str | None = None  #: lower-case hexadecimal; of a file in a registry


def with_index(document: Mapping[str, Any], index: FileIndex | None) -> Mapping[str, Any]:
    """A manifest that names this index of its file, and no other one; for None no index."""
    files = document.get("files")
    if not isinstance(files, list) or not files or not isinstance(files[0], dict):
        return document
    first = files[0]
    if index is None and "index" not in first:
        return document
    described = {name: value for name, value in first.items() if name != "index"}
    if index is not None:
        described["index"] = {"sha256": index.sha256, "size": index.size}
    return {**document, "files": [described, *files[1:]]}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A v2 manifest that can be used. Not to be changed, nor is what is in `document`.

    Its texts are for people: whatever the manifest has there, in one printable line.
    """

    document: Mapping[str, Any] = field(repr=False)  #: all of it, with the fields that we do not know
    uuid: str
    name: str
    version: str
    type: str
    os: str
    state: str  #: as served; where that is missing, as imgadm would work it out
    published_at: str | None
    origin: str | None
    file: ManifestFile | None  #: None where the image's file comes from elsewhere (`install`)
    #: What was taken though imgadm's own validation refuses it, the first 20 fields, fit to be shown.
    odd: tuple[str, ...] = ()

    @property
    def dataset(self) -> Literal["filesystem", "volume"] | None:
        """The kind of dataset that the type means; None where it does not say."""
        return _DATASETS.get(self.type)


def load(document: Mapping[str, Any], *, rules: Rules) -> Manifest:
    """The manifest in a decoded JSON object of any version, checked by the rules of its origin.

    Raises `InvalidManifestError` for what is no manifest of any version, and otherwise, if anything is wrong,
    `ManifestValidationError` with every fault in `data["errors"]` (the first 1000 of them).
    """
    new = _with_uuids_in_lower_case(upgrade(document))
    check_document(new)
    wrong = list(islice(faults(new, rules), MAX_FAULTS))
    strict = wrong if rules == "create" else list(islice(faults(new, "create"), MAX_FAULTS))
    if wrong:
        found = _merged(strict, wrong) if rules == "install" else wrong
        raise ManifestValidationError(
            f"invalid manifest: {_listed(found)}",
            hint=_HINTS[rules],
            data={"errors": [fault.as_wire() for fault in found]},
        )
    published_at = new.get("published_at")
    return Manifest(
        document=new,
        uuid=new["uuid"],
        name=shown_text(new.get("name")),
        version=shown_text(new.get("version")),
        type=shown_text(new.get("type")),
        os=shown_text(new.get("os")),
        state=_state(new),
        published_at=None if published_at is None else shown_text(published_at),
        origin=new.get("origin") or None,
        file=_file(new, rules),
        odd=tuple(str(fault) for fault in strict[:_MAX_ODD]),
    )


def unchecked(document: Mapping[str, Any]) -> Manifest:
    """The manifest in a decoded JSON object, only to be shown: what it says may be wrong, or missing.

    Raises `InvalidManifestError` for what is no manifest of any version.
    """
    new = _with_uuids_in_lower_case(upgrade(document))
    check_document(new)
    return Manifest(
        document=new,
        uuid=shown_text(new.get("uuid")),
        name=shown_text(new.get("name")),
        version=shown_text(new.get("version")),
        type=shown_text(new.get("type")),
        os=shown_text(new.get("os")),
        state=_state(new),
        published_at=None,
        origin=None,
        file=None,
    )


def _with_uuids_in_lower_case(document: dict[str, Any]) -> dict[str, Any]:
    """The uuids that name datasets, as datasets are named."""
    for key in ("uuid", "origin"):
        if key in document:
            document[key] = in_lower_case(document[key])
    return document


def _merged(strict: list[Fault], wrong: list[Fault]) -> list[Fault]:
    """The reasons to refuse the manifest, and with them all other faults that imgadm would report."""
    return [*strict, *(fault for fault in wrong if fault.field not in {each.field for each in strict})]


def _listed(found: list[Fault]) -> str:
    named = ", ".join(str(fault) for fault in found[:_IN_MESSAGE])
    left = len(found) - _IN_MESSAGE
    return f"{named}, and {left} more" if left > 0 else named


def _state(document: Mapping[str, Any]) -> str:
    state = document.get("state")
    if state is not None:
        return shown_text(state)
    if document.get("activated") is False:
        return "unactivated"
    return "disabled" if document.get("disabled") in (True, "true") else "active"


def _file(document: Mapping[str, Any], rules: Rules) -> ManifestFile | None:
    files = document.get("files")
    if not files:
        return None
    first = files[0]
    sha1, compression = first.get("sha1"), first.get("compression")
    if rules == "install" and sha1 == _NO_SHA1:
        sha1 = None  # imgadm compares the zeros of an image server: there they are a wrong checksum
    return ManifestFile(
        whole_number(first["size"]),
        sha1.lower() if sha1 else None,
        compression if isinstance(compression, str) and compression else None,
        _guid(first.get("dataset_guid")),
        _index(first.get("index")),
        sha256_of(first),
    )


def _index(value: object) -> FileIndex | None:
    """The index of a file; None for an odd one, too: an image needs none."""
    try:
        return msgspec.convert(value, FileIndex)
    except msgspec.ValidationError:
        return None


def _guid(value: object) -> int | None:
    """64 bits, unsigned; IMGAPI gives it as a string."""
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        number = int(value)
        return number if number < 1 << 64 else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_EXACT:
        return value
    return None
