"""Receipts: records of installed images, written before the image is visible. `verify` compares with them.

A receipt is a file in the daemon's own state, FOLDER/POOL-UUID.json: imgadm's files have no place for it, and
everybody who may change a pool may change those. A receipt may outlive its image, for example if imgadm
deletes the image and installs it again: `Receipt.is_of` tells. All calls block.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog
from msgspec.structs import replace

from imgstored.host.filesystem import make_folder, remove_file, replace_file
from imgstored.manifest import decoded
from imgstored.manifest.values import UUID
from imgstored.site.trust import Provenance  # noqa: TC001  (msgspec reads the types)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.pools.base import Checked, PoolImage

log = structlog.get_logger(__name__)

#: A receipt has some 200 bytes.
_LIMIT: Final = 1 << 16


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts about an image when it was installed."""

    guid: int  #: of the snapshot @final
    kind: Literal["filesystem", "volume"]
    stream_size: int | None  #: bytes of its decompressed stream; None if others installed it
    origin: str | None  #: uuid of the image it was cloned from
    origin_guid: int | None
    dataset: int = 0  #: `PoolImage.dataset`; 0 in an older receipt
    format: Literal[1] = 1
    #: SHA-256 of its data as `verify --record` read it, in hexadecimal; see `Checked.content`.
    content: str | msgspec.UnsetType = msgspec.UNSET
    #: The signature that vouched for it, if its source has keys.
    signed: Provenance | msgspec.UnsetType = msgspec.UNSET
    #: The time of an older receipt's file, in seconds since the epoch. Never written.
    written_at: float | msgspec.UnsetType = msgspec.UNSET

    def is_of(self, image: PoolImage) -> bool:
        """True if the receipt was written for this dataset, and not for an earlier one with the same image.

        An older receipt does not name its dataset, and belongs to one that is older than the receipt.
        """
        if self.dataset and image.dataset:
            return self.dataset == image.dataset
        if self.written_at is msgspec.UNSET or image.created is None:
            return True
        return image.created <= self.written_at


def receipt_of(
    image: PoolImage,
    stream_size: int | None,
    origin_guid: int | None,
    *,
    signed: Provenance | None = None,
) -> Receipt:
    """The receipt of an image as a pool has it."""
    kind: Literal["filesystem", "volume"] = "volume" if image.kind == "volume" else "filesystem"
    receipt = Receipt(image.guid, kind, stream_size, image.origin, origin_guid, image.dataset)
    return receipt if signed is None else replace(receipt, signed=signed)


def recorded(before: Receipt | None, checked: Checked, origin_guid: int | None) -> Receipt:
    """The receipt of an image as `checked` read it; `before` is the receipt that it replaces."""
    image = checked.image
    same = before is not None and before.is_of(image) and before.guid == image.guid
    stream_size = before.stream_size if same and before is not None else None
    signed = before.signed if same and before is not None and before.signed is not msgspec.UNSET else None
    receipt = receipt_of(image, stream_size, origin_guid, signed=signed)
    return receipt if checked.content is None else replace(receipt, content=checked.content)


class Receipts:
    """The receipts in one folder."""

    def __init__(self, folder: Path, set_aside: Callable[[Path, str], None] | None = None) -> None:
        """`set_aside` gets a damaged file and the reason; it may raise `OSError`."""
        self._folder = folder
        self._set_aside = set_aside

    def write(self, pool: str, uuid: str, receipt: Receipt) -> None:
        """Writes a receipt, which survives a power cut once this returns. Raises `OSError`."""
        make_folder(self._folder, mode=0o700)
        content = msgspec.json.format(msgspec.json.encode(receipt)) + b"\n"
        replace_file(self._path(pool, uuid), content, mode=0o600)

    def read(self, pool: str, uuid: str) -> Receipt | None:
        """The receipt of an image; None if there is none, or it cannot be read."""
        path = self._path(pool, uuid)
        try:
            with path.open("rb") as file:
                receipt = decoded(file.read(_LIMIT), Receipt)
                written_at = os.fstat(file.fileno()).st_mtime
            return receipt if receipt.dataset else replace(receipt, written_at=written_at)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.error("cannot read an image's receipt", pool=pool, uuid=uuid, error=str(error))
            if self._set_aside is not None and isinstance(error, ValueError):
                with suppress(OSError):  # then the file stays, and the next read logs it again
                    self._set_aside(path, str(error))
            return None

    def forget(self, pool: str, uuid: str) -> None:
        """Deletes the receipt of a deleted image, durably. Raises `OSError`."""
        remove_file(self._path(pool, uuid))

    def uuids(self, pool: str) -> list[str]:
        """The uuids of a pool's images that have receipts."""
        names = (path.stem.removeprefix(f"{pool}-") for path in self._folder.glob(f"{pool}-*.json"))
        return sorted(name for name in names if UUID.fullmatch(name))

    def _path(self, pool: str, uuid: str) -> Path:
        return self._folder / f"{pool}-{uuid}.json"
