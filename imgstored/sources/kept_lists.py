"""The last good list of each source, in files, for when a source does not answer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import structlog

from imgstored.durable import replace_file
from imgstored.errors import ImgstoreError, InvalidManifestError
from imgstored.http.location import public
from imgstored.manifest import MAX_LIST, check_uuid, parse
from imgstored.sources.base import Listed
from imgstored.sources.spec import identity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imgstored.sources.base import SourceSpec

log = structlog.get_logger(__name__)

_SUFFIX = ".json"


class KeptLists:
    """A folder with one file a source: `{source, listed_at, manifests}`. All methods block, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, spec: SourceSpec, images: list[Listed], listed_at: str) -> None:
        """Writes a list down. What goes wrong is only logged: the list itself is there."""
        content = {
            "source": public(spec.url),
            "listed_at": listed_at,
            "manifests": [image.manifest for image in images],
        }
        data = json.dumps(content, ensure_ascii=False).encode()
        path = self._path(spec)
        try:
            if len(data) > MAX_LIST:
                path.unlink(missing_ok=True)  # rather none than one that is long out of date
                log.warning("a source's list is too large to be kept", source=spec.url, bytes=len(data))
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data, mode=0o600)
        except OSError as error:
            log.warning("a source's list cannot be kept", source=spec.url, path=str(path), error=str(error))

    def kept(self, spec: SourceSpec) -> tuple[list[Listed], str] | None:
        """The last good list and its time (ISO), or None. A file that is damaged is as good as none."""
        path = self._path(spec)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST + 1)
            return _read(data, spec)
        except FileNotFoundError:
            return None
        except (OSError, ImgstoreError) as error:
            log.warning("a kept list cannot be used", source=spec.url, path=str(path), error=str(error))
            return None

    def kept_at(self, spec: SourceSpec) -> float | None:
        """When the last good list was kept, in seconds since the epoch; None where there is none."""
        try:
            return self._path(spec).stat().st_mtime
        except OSError:
            return None

    def keep_only(self, specs: Iterable[SourceSpec]) -> None:
        """Removes the lists of other sources."""
        wanted = {self._path(spec).name for spec in specs}
        try:
            for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
                if path.name not in wanted:
                    path.unlink()
        except OSError as error:
            log.warning("an old list cannot be removed", folder=str(self._folder), error=str(error))

    def _path(self, spec: SourceSpec) -> Path:
        name = hashlib.sha256(json.dumps(identity(spec)).encode()).hexdigest()
        return self._folder / (name + _SUFFIX)


def _read(data: bytes, spec: SourceSpec) -> tuple[list[Listed], str]:
    """Raises `InvalidManifestError` or `InvalidUUIDError` unless it is what `keep` wrote."""
    content = parse(data, limit=MAX_LIST)
    listed_at, manifests = content.get("listed_at"), content.get("manifests")
    if not isinstance(listed_at, str) or not isinstance(manifests, list):
        raise InvalidManifestError("not a kept list")
    return [Listed(_named(manifest), spec.url) for manifest in manifests], listed_at


def _named(manifest: object) -> dict[str, Any]:
    if not isinstance(manifest, dict):
        raise InvalidManifestError("not a manifest")
    check_uuid(manifest.get("uuid"))
    return manifest
