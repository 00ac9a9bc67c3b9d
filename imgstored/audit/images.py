"""The check of one image: its data to the last byte, its manifest, and its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.catalog.manifest_files import MISSING
from imgstored.maintenance.differences import Manifest, verdict

if TYPE_CHECKING:
    from imgstored.catalog.manifest_files import ManifestFiles
    from imgstored.catalog.receipts import Receipts
    from imgstored.doctor.check import Status
    from imgstored.pools.base import Pool


def fault_of(
    name: str, pool: Pool, uuid: str, receipts: Receipts, files: ManifestFiles
) -> tuple[Status, str] | None:
    """The fault of an installed image; None for a whole one. Blocks as long as it takes to read it.

    Raises as `Pool.check` does.
    """
    receipt = receipts.read(name, uuid)
    content = receipt is not None and isinstance(receipt.content, str)
    checked = pool.check(uuid, lambda done: None, content=content)
    origin = checked.image.origin
    below = None if origin is None else pool.image(origin)
    if origin is not None and below is None:
        return "fail", f"its origin {origin} is not installed"
    record = files.read(name, uuid)
    assert record is not None  # only of one that is known already
    missing = record.stamp == MISSING
    manifest = Manifest(missing, broken=not missing and set(record.manifest) == {"uuid"})
    found = verdict(receipt, checked, None if below is None else below.guid, manifest)
    if found.result == "ok" or (found.result == "unknown" and pool.shared):
        return None
    return ("warn" if found.result == "unknown" else "fail"), found.reason
