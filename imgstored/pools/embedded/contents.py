"""The contents of an embedded pool's folder when the pool is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from imgstored.manifest.values import UUID
from imgstored.pools.base import PoolImage
from imgstored.pools.embedded.notes import (
    HOLDS,
    ImageNote,
    is_whole,
    occupied,
    read_checkpoint,
    read_holds,
    read_image,
)
from imgstored.pools.embedded.receive import PARTIAL, TRASH, discard, empty_trash

if TYPE_CHECKING:
    from collections.abc import Collection

    from imgstored.pools.embedded.files import Folder

log = structlog.get_logger(__name__)

#: Stands for tags that cannot be read: better kept than deleted.
UNREADABLE: Final = "(unreadable)"


class Installed(Struct):
    """A published image: its note, the bytes that it occupies, and the tags that hold it."""

    note: ImageNote
    used: int
    holds: set[str]

    @property
    def image(self) -> PoolImage:
        """As others see it."""
        note = self.note
        size = note.volume_size if note.kind == "volume" else note.stream_size
        kind = "volume" if note.kind == "volume" else "filesystem"
        return PoolImage(note.uuid, note.guid, note.origin, kind, self.used, size, dataset=note.dataset)


def scan(
    root: Folder, pool: str, *, beside: Collection[str]
) -> tuple[dict[str, Installed], dict[str, str | None], dict[str, str]]:
    """The published images by uuid, the origins of those of which a part is there, and what is damaged.

    Sweeps up what was half made. `beside` are files that are no images. Raises `OSError`.
    """
    images: dict[str, Installed] = {}
    origins: dict[str, str | None] = {}
    damage: dict[str, str] = {}
    for name in root.names():
        uuid = name.removesuffix(PARTIAL)
        if name.startswith(TRASH):
            empty_trash(root, name)
        elif UUID.fullmatch(name):
            installed = scan_image(root, pool, name)
            if installed is None:
                damage[name] = f"image {name} is damaged, and left out"
            else:
                images[name] = installed
                if UNREADABLE in installed.holds:
                    damage[name] = (
                        f"the holds of image {name} are damaged: it stays until"
                        f" `imgctl release {name} '{UNREADABLE}'`"
                    )
        elif name.endswith(PARTIAL) and UUID.fullmatch(uuid):
            fault = _scan_partial(root, pool, uuid, origins)
            if fault is not None:
                damage[name] = fault
        elif name not in beside:
            log.warning("something in the pool's folder is no image", pool=pool, name=name)
            if ".damaged-" in name:
                damage[name] = f"{name[:80]} in its folder was in the place of something else"
    return images, origins, damage


def scan_image(root: Folder, pool: str, uuid: str) -> Installed | None:
    """The published image, or None, with a line in the log, where it is damaged or cannot be read."""
    try:
        with root.folder(uuid) as folder:
            note, files = read_image(folder), folder.statuses()
            if note is None or note.uuid != uuid or not is_whole(files, note):
                log.error("an image is damaged, and left out", pool=pool, uuid=uuid)
                return None
            holds = _scan_holds(folder, pool, uuid) if HOLDS in files else set()
            return Installed(note, occupied(files, note), holds)
    except OSError as error:
        log.error("an image cannot be read, and is left out", pool=pool, uuid=uuid, error=str(error))
        return None


def _scan_holds(folder: Folder, pool: str, uuid: str) -> set[str]:
    try:
        return read_holds(folder)
    except (OSError, ValueError) as error:  # msgspec's are ValueErrors, and so is text that is no UTF-8
        log.error("cannot read what holds an image", pool=pool, uuid=uuid, error=str(error))
        return {UNREADABLE}


def _scan_partial(root: Folder, pool: str, uuid: str, origins: dict[str, str | None]) -> str | None:
    """Notes the origin of a partial, or drops it; returns why it can be neither."""
    try:
        with root.folder(uuid + PARTIAL) as folder:
            checkpoint = read_checkpoint(folder, uuid)
        if checkpoint is None:
            log.info("a partial image cannot be gone on with, and is dropped", pool=pool, uuid=uuid)
            discard(root, uuid + PARTIAL)
        else:
            origins[uuid] = checkpoint.origin
    except OSError as error:
        log.error("a partial image cannot be read", pool=pool, uuid=uuid, error=str(error))
        return f"a part of image {uuid} cannot be read: {error.strerror or error}"
    return None
