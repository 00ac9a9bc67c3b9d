"""The contents of an embedded pool's folder when the pool is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from imgstored.manifest.values import UUID
from imgstored.pools.base import PoolImage
from imgstored.pools.embedded.notes import (
    FILES,
    HOLDS,
    ImageNote,
    is_whole,
    mark_untouched,
    occupied,
    read_checkpoint,
    read_holds,
    read_image_with_status,
    untouched,
)
from imgstored.pools.embedded.receive import PARTIAL, TRASH, discard, empty_trash

if TYPE_CHECKING:
    from collections.abc import Collection

    from imgstored.pools.embedded.files import Folder

log = structlog.get_logger(__name__)

#: Stands for unreadable tags, so that the image is kept rather than deleted.
UNREADABLE: Final = "(unreadable)"


class Installed(Struct):
    """A published image: its note, the bytes that it occupies, and the tags that hold it."""

    note: ImageNote
    used: int
    holds: set[str]

    @property
    def image(self) -> PoolImage:
        """The image as clients see it."""
        note = self.note
        size = note.volume_size if note.kind == "volume" else note.stream_size
        kind = "volume" if note.kind == "volume" else "filesystem"
        return PoolImage(note.uuid, note.guid, note.origin, kind, self.used, size, dataset=note.dataset)


def scan(
    root: Folder, pool: str, *, others: Collection[str], sweep: bool = True
) -> tuple[dict[str, Installed], dict[str, str | None], dict[str, str]]:
    """The published images by uuid, the origins of partials, and damage by name.

    With `sweep`, removes half-made files. `others` are names of files that are not images. Raises `OSError`.
    """
    images: dict[str, Installed] = {}
    origins: dict[str, str | None] = {}
    damage: dict[str, str] = {}
    for name in root.names():
        uuid = name.removesuffix(PARTIAL)
        if name.startswith(TRASH):
            if sweep:
                empty_trash(root, name)
        elif UUID.fullmatch(name):
            installed = scan_image(root, pool, name, sweep=sweep)
            if installed is not None:
                images[name] = installed
            fault = _fault_of_image(name, installed)
            if fault is not None:
                damage[name] = fault
        elif name.endswith(PARTIAL) and UUID.fullmatch(uuid):
            fault = _scan_partial(root, pool, uuid, origins, sweep=sweep)
            if fault is not None:
                damage[name] = fault
        elif name not in others:
            damage |= _fault_of_other(pool, name)
    return images, origins, damage


def _fault_of_image(uuid: str, found: Installed | None) -> str | None:
    if found is None:
        return f"image {uuid} is damaged, and left out"
    if UNREADABLE in found.holds:
        return f"the holds of image {uuid} are damaged: it stays until `imgctl release {uuid} '{UNREADABLE}'`"
    return None


def _fault_of_other(pool: str, name: str) -> dict[str, str]:
    """The damage of a file that is not an image, by its name."""
    log.warning("something in the pool's folder is not an image", pool=pool, name=name)
    if ".damaged-" in name:
        return {name: f"{name[:80]} in its folder was in the place of something else"}
    return {}


def scan_image(root: Folder, pool: str, uuid: str, *, sweep: bool = False) -> Installed | None:
    """The published image; None, with a log line, if it is damaged or cannot be read."""
    try:
        with root.folder(uuid) as folder:
            note, written = read_image_with_status(folder) or (None, None)
            files = None if note is None or written is None else untouched(folder, note, written)
            listed = files is None
            if files is None:
                files = folder.statuses()
                if sweep:
                    folder.sweep(files)
            if note is None or note.uuid != uuid or not is_whole(files, note):
                log.error("an image is damaged, and left out", pool=pool, uuid=uuid)
                return None
            if sweep and listed:
                mark_untouched(folder, files, note)
            holds = _scan_holds(folder, pool, uuid) if HOLDS in files else set()
            return Installed(note, occupied(files, note), holds)
    except OSError as error:
        log.error("an image cannot be read, and is left out", pool=pool, uuid=uuid, error=str(error))
        return None


def _scan_holds(folder: Folder, pool: str, uuid: str) -> set[str]:
    try:
        return read_holds(folder)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors, as are those of UTF-8
        log.error("cannot read the holds of an image", pool=pool, uuid=uuid, error=str(error))
        return {UNREADABLE}


def _scan_partial(
    root: Folder, pool: str, uuid: str, origins: dict[str, str | None], *, sweep: bool
) -> str | None:
    """Notes the origin of a partial, or drops an unusable one; returns why neither is possible, or None."""
    try:
        with root.folder(uuid + PARTIAL) as folder:
            checkpoint = read_checkpoint(folder, uuid)
        if checkpoint is None and not sweep:
            origins[uuid] = None
        elif checkpoint is None:
            log.info("a partial image cannot be continued, and is dropped", pool=pool, uuid=uuid)
            discard(root, uuid + PARTIAL)
        else:
            origins[uuid] = checkpoint.origin
    except OSError as error:
        log.error("a partial image cannot be read", pool=pool, uuid=uuid, error=str(error))
        return f"a part of image {uuid} cannot be read: {error.strerror or error}"
    return None


def strays(root: Folder, *, others: Collection[str]) -> list[str]:
    """The sorted names in the folder and its images that belong to neither an image nor a partial.

    Raises `OSError`.
    """
    found = []
    for name in root.names():
        if UUID.fullmatch(name):
            try:
                with root.folder(name) as folder:
                    found += [f"{name}/{each}" for each in folder.names() if each not in FILES]
            except NotADirectoryError:
                found.append(name)
        elif name not in others and not (
            name.endswith(PARTIAL) and UUID.fullmatch(name.removesuffix(PARTIAL))
        ):
            found.append(name)
    return sorted(found)
