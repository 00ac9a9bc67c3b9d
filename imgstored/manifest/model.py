"""A manifest that has been checked: what the rest of imgstored works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import ManifestValidationError
from imgstored.manifest.document import check_document
from imgstored.manifest.rules import Rules, faults
from imgstored.manifest.upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.manifest.fields import Fault

#: Faults that are looked for. Whoever made more did not try to write a manifest.
MAX_FAULTS: Final = 1000

#: Faults that the message names; the error's data has them all.
_IN_MESSAGE: Final = 20

#: JavaScript, and so IMGAPI, rounds larger integers.
_MAX_EXACT: Final = (1 << 53) - 1

#: What Triton's agent writes into the manifest of an image whose file it knows by SHA-256 alone.
_NO_SHA1: Final = "0" * 40

_HINTS: Final[Mapping[Rules, str]] = {
    "import": "the image server's manifest is faulty: use another source, or tell its operator",
    "install": "correct these fields of the manifest",
}


class ManifestFile(Struct, frozen=True):
    """The image's file."""

    size: int | None  #: bytes, compressed
    sha1: str | None  #: lower-case hexadecimal; None where the manifest says only zeros
    compression: str | None  #: gzip, bzip2, xz, zstd or none
    dataset_guid: int | None  #: of the snapshot in the stream; None also where it may have been rounded


@dataclass(frozen=True, slots=True)
class Manifest:
    """A v2 manifest without faults. Not to be changed, nor is what is in `document`."""

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


def load(document: Mapping[str, Any], *, rules: Rules) -> Manifest:
    """The manifest in a decoded JSON object of any version, checked by the rules of its origin.

    Raises `InvalidManifestError` for what is no manifest of any version, and otherwise, if anything is wrong,
    `ManifestValidationError` with every fault in `data["errors"]` (the first 1000 of them).
    """
    new = upgrade(document)
    check_document(new)
    found = list(islice(faults(new, rules), MAX_FAULTS))
    if found:
        raise ManifestValidationError(
            f"invalid manifest: {_listed(found)}",
            hint=_HINTS[rules],
            data={"errors": [fault.as_wire() for fault in found]},
        )
    return Manifest(
        document=new,
        uuid=new["uuid"],
        name=new["name"],
        version=new["version"],
        type=new["type"],
        os=new["os"],
        state=_state(new),
        published_at=new.get("published_at"),
        origin=new.get("origin"),
        file=_file(new, rules),
    )


def unchecked(document: Mapping[str, Any]) -> Manifest:
    """The manifest in a decoded JSON object, only to be shown: what it says may be wrong, or missing.

    Raises `InvalidManifestError` for what is no manifest of any version.
    """
    new = upgrade(document)
    check_document(new)
    fields = {key: str(new.get(key, "")) for key in ("uuid", "name", "version", "type", "os")}
    return Manifest(document=new, **fields, state=_state(new), published_at=None, origin=None, file=None)


def _listed(found: list[Fault]) -> str:
    named = ", ".join(str(fault) for fault in found[:_IN_MESSAGE])
    left = len(found) - _IN_MESSAGE
    return f"{named}, and {left} more" if left > 0 else named


def _state(document: Mapping[str, Any]) -> str:
    state = document.get("state")
    if isinstance(state, str):
        return state
    if document.get("activated") is False:
        return "unactivated"
    return "disabled" if document.get("disabled") in (True, "true") else "active"


def _file(document: Mapping[str, Any], rules: Rules) -> ManifestFile | None:
    files = document.get("files")
    if not files:
        return None
    first = files[0]
    # imgadm compares the zeros of an image server, too: there they are a wrong checksum.
    sha1 = None if rules == "install" and first["sha1"] == _NO_SHA1 else first["sha1"]
    return ManifestFile(first["size"], sha1, first["compression"], _guid(first.get("dataset_guid")))


def _guid(value: object) -> int | None:
    """64 bits, unsigned; IMGAPI gives it as a string."""
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        number = int(value)
        return number if number < 1 << 64 else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_EXACT:
        return value
    return None
