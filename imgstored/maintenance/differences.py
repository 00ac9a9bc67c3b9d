"""Differences between an installed image and what a source says of it. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgstored.errors import ImageMissingOriginalSnapshotError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Stands for a field that is not there.
_MISSING = object()

_DESCENDED = "requirements"


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two manifests differ, as imgadm names them: those of `requirements` with a dot.

    First what the new one has, then what only the old one has, then requirements; each in its own order.
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
    """The snapshot of a dataset that is the image, by its guid; `snapshots` are names without `@`, and guids.

    None where the guid is not known. Raises `ImageMissingOriginalSnapshotError` where it is not among them.
    """
    if not snapshots:
        raise ImageMissingOriginalSnapshotError(uuid)
    if guid is None:
        return None
    for name, each in snapshots.items():
        if each == guid:
            return name
    raise ImageMissingOriginalSnapshotError(uuid, guid)
