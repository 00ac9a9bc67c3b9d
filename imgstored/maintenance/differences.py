"""Differences between an installed image and its source's manifest, or its receipt. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct

from imgstored.errors import ImageMissingOriginalSnapshotError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproto.documents import Result

    from imgstored.catalog.receipts import Receipt
    from imgstored.pools.base import Checked

#: Stands for a field that is not there.
_MISSING = object()

_DESCENDED = "requirements"


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two manifests differ, as imgadm names them: those of `requirements` with a dot.

    The order is: fields of the new manifest, fields of only the old one, requirements.
    """
    before, after = dict(old), dict(new)
    inner_before, inner_after = before.get(_DESCENDED), after.get(_DESCENDED)
    if not isinstance(inner_before, dict) or not isinstance(inner_after, dict):
        return _changed(before, after)
    del before[_DESCENDED], after[_DESCENDED]
    inner = _changed(inner_before, inner_after)
    return _changed(before, after) + [f"{_DESCENDED}.{field}" for field in inner]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changed = [field for field, value in new.items() if old.get(field, _MISSING) != value]
    return changed + [field for field in old if field not in new]


def original_snapshot(uuid: str, snapshots: Mapping[str, int], guid: int | None) -> str | None:
    """The image's snapshot of a dataset, by its guid; `snapshots` has guids by names without `@`.

    None if the guid is unknown. Raises `ImageMissingOriginalSnapshotError` if no snapshot has it.
    """
    if not snapshots:
        raise ImageMissingOriginalSnapshotError(uuid)
    if guid is None:
        return None
    for name, each in snapshots.items():
        if each == guid:
            return name
    raise ImageMissingOriginalSnapshotError(uuid, guid)


_FROM_NOW_ON = "from now on it is compared with its present state"


class Verdict(Struct, frozen=True):
    """The result, and the reason why it is not "ok", for people."""

    result: Result
    reason: str = ""


class Manifest(Struct, frozen=True):
    """The state of imgadm's file of an image."""

    missing: bool = False
    broken: bool = False  #: it cannot be read, or is another image's


def verdict(
    receipt: Receipt | None, checked: Checked, origin_guid: int | None, manifest: Manifest
) -> Verdict:
    """The worst result that applies. `origin_guid` is the present guid of the image's origin.

    A receipt of an earlier dataset still identifies the image, but does not say who installed this dataset.
    """
    if checked.damaged is not None:
        return Verdict("damaged", checked.damaged)
    if manifest.broken:
        return Verdict("damaged", "its manifest cannot be read, or is another image's")
    if receipt is not None and (difference := _difference(receipt, checked, origin_guid)) is not None:
        return Verdict("changed", difference)
    if receipt is not None and not receipt.is_of(checked.image):
        return Verdict("unknown", f"imgstored installed an earlier dataset of it; {_FROM_NOW_ON}")
    # imgadm leaves its images mounted and writable: to read a file is enough to change them.
    if checked.changed is not None and receipt is not None and receipt.stream_size is not None:
        return Verdict("changed", checked.changed)
    if receipt is None:
        return Verdict("unknown", f"imgstored did not install it; {_FROM_NOW_ON}")
    if manifest.missing:
        return Verdict("damaged", "its manifest is missing")
    return Verdict("ok")


def _difference(receipt: Receipt, checked: Checked, origin_guid: int | None) -> str | None:
    image = checked.image
    if image.guid != receipt.guid:
        return f"another image is in its place: its guid is {image.guid}, and was {receipt.guid}"
    if image.kind != receipt.kind:
        return f"it is a {image.kind}, and was a {receipt.kind}"
    if image.origin != receipt.origin:
        return f"its origin is {image.origin or 'none'}, and was {receipt.origin or 'none'}"
    if receipt.origin_guid is not None and origin_guid != receipt.origin_guid:
        return f"its origin {image.origin} has the guid {origin_guid}, and had {receipt.origin_guid}"
    sizes = checked.stream_size, receipt.stream_size
    if None not in sizes and sizes[0] != sizes[1]:
        return f"its stream has {sizes[0]} bytes, and had {sizes[1]}"
    if checked.content is not None and receipt.content not in (UNSET, checked.content):
        return f"its data has the SHA-256 {checked.content}, and had {receipt.content}"
    return None
