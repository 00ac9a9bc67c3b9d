"""imgadm's own files of images: FOLDER/POOL-UUID.json, `{manifest, zpool, source}` as 2-space JSON.

imgadm writes them too, and not in one step. A file of ours is *pending* while its image is not there yet, or
about to be deleted: then it has a mark next to it, POOL-UUID.json.unsettled. Only marked files are ever swept
up, and never a file that imgadm writes before it installs an image, or keeps for a dataset that it ignores.
All calls block.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from imgstored.errors import InvalidManifestError
from imgstored.host.filesystem import NEW, make_folder, remove_file, replace_file, set_times
from imgstored.manifest import MAX_LIST, in_lower_case, parse
from imgstored.manifest.values import UUID

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

#: A file's change and metadata times in ns, its size and its inode; they change with its content.
Stamp = tuple[int, int, int, int]
#: The stamp of a missing file.
MISSING: Final[Stamp] = (0, 0, 0, 0)

#: The file is indented, and so larger than its manifest.
_MAX_FILE: Final = MAX_LIST

_MARK: Final = ".unsettled"


@dataclass(frozen=True, slots=True)
class Record:
    """The content of an image's file; only the uuid if it cannot be read.

    `stamp` is None if the file should be read again next time.
    """

    manifest: Mapping[str, Any] = field(repr=False)
    source: str | None
    stamp: Stamp | None


class ManifestFiles:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Makes the folder if it does not exist. Raises `OSError`."""
        make_folder(self._folder, mode=0o755)

    # -- reading ---------------------------------------------------------------------------------------------

    def read(self, pool: str, uuid: str, known: Stamp | None = None) -> Record | None:
        """Reads an image's file; None if it still has the stamp `known`.

        The log says which file is missing, damaged or too large; the file is left as it is.
        """
        path = self._place(pool, uuid)
        stamp: Stamp | None = None
        try:
            if known is not None and _stamp(os.stat(path)) == known:  # noqa: PTH116 - it takes half the time
                return None
            stamp, content = _content(path)
            record = _parsed(content)
        except FileNotFoundError:
            if known == MISSING:
                return None
            log.warning("image without a manifest", pool=pool, uuid=uuid, path=path)
            return Record({"uuid": uuid}, None, MISSING)
        except OSError as error:
            _report(pool, uuid, path, error.strerror or str(error))
            return Record({"uuid": uuid}, None, None)
        except InvalidManifestError as error:
            _report(pool, uuid, path, error.message)
            return Record({"uuid": uuid}, None, stamp)
        manifest, source = _manifest(record, pool, uuid, path), record.get("source")
        return Record(manifest, source if isinstance(source, str) else None, stamp)

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, pool: str, uuid: str, manifest: Mapping[str, Any], source: str | None) -> None:
        """Writes an image's file, which survives a power cut once this returns. Raises `OSError`."""
        record: dict[str, Any] = {"manifest": dict(manifest), "zpool": pool}
        if source is not None:
            record["source"] = source
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._path(pool, uuid), text.encode("utf-8", "replace"), mode=0o644)

    def rewrite(self, pool: str, uuid: str, manifest: Mapping[str, Any], source: str | None) -> None:
        """As `write`, for an installed image: the file's time stays that of the installation."""
        path = self._path(pool, uuid)
        try:
            before = path.stat()
        except FileNotFoundError:
            before = None
        self.write(pool, uuid, manifest, source)
        if before is not None:
            set_times(path, before.st_atime_ns, before.st_mtime_ns)

    def written_at(self, pool: str, uuid: str) -> float | None:
        """The time of an image's installation, in seconds since the epoch; None if there is no file."""
        try:
            return self._path(pool, uuid).stat().st_mtime
        except OSError:
            return None

    def stamp(self, pool: str, uuid: str) -> Stamp:
        """The current stamp of an image's file. Raises `OSError`."""
        try:
            return _stamp(self._path(pool, uuid).stat())
        except FileNotFoundError:
            return MISSING

    def forget(self, pool: str, uuid: str) -> None:
        """Removes an image's file durably, with what a crash left of it. Raises `OSError`."""
        path = self._path(pool, uuid)
        path.with_name(path.name + NEW).unlink(missing_ok=True)
        remove_file(path)

    def mark(self, pool: str, uuid: str) -> None:
        """Marks an image's file as pending; the mark survives a power cut."""
        replace_file(self._marked(pool, uuid), b"", mode=0o644)

    def unmark(self, pool: str, uuid: str) -> None:
        """Removes the mark."""
        self._marked(pool, uuid).unlink(missing_ok=True)

    def is_marked(self, pool: str, uuid: str) -> bool:
        """True if an image's file is pending."""
        return self._marked(pool, uuid).exists()

    def is_there(self, pool: str, uuid: str) -> bool:
        """True if an image has a file, readable or not."""
        return os.path.lexists(self._path(pool, uuid))

    def marked(self, pool: str) -> list[str]:
        """The uuids of a pool's marked files."""
        names = (path.name.removesuffix(_MARK) for path in self._folder.glob(f"{pool}-*.json{_MARK}"))
        uuids = (name.removeprefix(f"{pool}-").removesuffix(".json") for name in names)
        return [uuid for uuid in uuids if UUID.fullmatch(uuid)]

    def half_written(self, pool: str) -> list[str]:
        """The uuids of images with a half-written file or mark."""
        names = (path.name.removesuffix(NEW) for path in self._folder.glob(f"{pool}-*.json*{NEW}"))
        uuids = {name.removesuffix(_MARK).removeprefix(f"{pool}-").removesuffix(".json") for name in names}
        return sorted(uuid for uuid in uuids if UUID.fullmatch(uuid))

    def tidy(self, pool: str, uuid: str) -> None:
        """Removes an image's half-written files; no other process may be writing them. Raises `OSError`."""
        for path in (self._path(pool, uuid), self._marked(pool, uuid)):
            path.with_name(path.name + NEW).unlink(missing_ok=True)

    def _place(self, pool: str, uuid: str) -> str:
        return f"{self._folder}/{pool}-{uuid}.json"

    def _path(self, pool: str, uuid: str) -> Path:
        return Path(self._place(pool, uuid))

    def _marked(self, pool: str, uuid: str) -> Path:
        path = self._path(pool, uuid)
        return path.with_name(path.name + _MARK)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _content(path: str) -> tuple[Stamp, bytes | None]:
    """The stamp of a file before it was read, and at most one byte more than is allowed; None: no plain file.

    Never waits, as for a named pipe.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _stamp(status), None
        # A byte more than the size: imgadm may be writing the file.
        return _stamp(status), _read(fd, min(status.st_size, _MAX_FILE))
    finally:
        os.close(fd)


def _parsed(content: bytes | None) -> dict[str, Any]:
    if content is None:
        raise InvalidManifestError("not a regular file")
    return parse(content, limit=_MAX_FILE)


def _read(fd: int, size: int) -> bytes:
    """So many bytes and one more, or as many as there are."""
    data = os.read(fd, size + 1)
    while len(data) < size and (more := os.read(fd, size + 1 - len(data))):
        data += more
    return data


def _manifest(record: Mapping[str, Any], pool: str, uuid: str, path: str) -> dict[str, Any]:
    """The image's manifest in a file, with fields of any type; only the uuid if the file has none."""
    manifest = record.get("manifest")
    if isinstance(manifest, dict) and manifest.get("uuid") == uuid:
        return manifest
    if not isinstance(manifest, dict) or in_lower_case(manifest.get("uuid")) != uuid:
        _report(pool, uuid, path, "it has no manifest of this image")
        return {"uuid": uuid}
    return {**manifest, "uuid": uuid}


def _report(pool: str, uuid: str, path: str, why: str) -> None:
    log.error("cannot read an image's manifest", pool=pool, uuid=uuid, path=path, error=why)
