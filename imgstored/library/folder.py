"""The folder of an image in the library, and all names beside it: what is there, and what is wrong with it.

    UUID/manifest.json   the manifest, v2
    UUID/file            the compressed stream, whose size and SHA-1 the manifest has
    UUID/icon            optional
    UUID/index-SHA256    the index of the file with that hash; empty if it cannot have one
    UUID/entry.json      `Entry`; its time of change is when the file was last served

Reads, and changes nothing but what a daemon that died has left in a folder.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from imgstored.errors import DownloadError, ImgstoreError, InvalidManifestError
from imgstored.host import filesystem
from imgstored.manifest import MAX_MANIFEST, FileIndex, Manifest, Rules, decoded, load, parse, with_index
from imgstored.manifest.values import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from io import FileIO
    from pathlib import Path

FILE, MANIFEST, ICON, ENTRY = "file", "manifest.json", "icon", "entry.json"
INDEX: Final = "index-"

#: Folders that are being made, or going; and damaged ones, of which some are kept for people to look at.
NEW, OLD, DAMAGED = ".new-", ".old-", ".damaged-"
#: Files that are still coming, and seconds after which one that nobody asked for again is removed.
COMING: Final = ".coming-"
COMING_SECONDS: Final = 7 * 86400.0
#: How often wrong bytes were given out as a file, as long as a client may still have a part of them.
SPOILT: Final = ".spoilt-"
SPOILT_SECONDS: Final = 30 * 86400.0

#: Bytes that are read at a time.
_BLOCK: Final = 1 << 20

#: A copy of what another server has: kept until it is evicted, until no schedule chooses it any more, or for
#: good.
Copy = Literal["kept", "scheduled", "mirrored"]
Kind = Literal[Copy, "published"]
COPIES: Final[tuple[Copy, ...]] = get_args(Copy)
#: Manifests of kept files are as other servers have them; those of published ones were checked strictly here.
RULES: Final[dict[Kind, Rules]] = {
    "kept": "import",
    "scheduled": "import",
    "mirrored": "import",
    "published": "create",
}


class Entry(msgspec.Struct, frozen=True):
    """The record in an image's folder."""

    kind: Kind  #: published: this server is where it comes from
    added_at: float  #: seconds since the epoch
    md5: str | None = None  #: of the file, in base64 (IMGAPI's Content-MD5); None until it is known
    sha256: str | None = None  #: of the file, in hexadecimal; None until it is known
    #: Size and SHA-256 of the file's index. The size is 0 if it cannot have one; None: nobody has looked.
    index: tuple[int, str] | None = None
    #: The layers that the file had in a registry, one after another: size, and SHA-256 in hexadecimal.
    layers: tuple[tuple[int, str], ...] = ()
    source: str | None = None  #: the URL of where a copy came from, for people; None: a file of a client
    withdrawn: bool = False  #: the source does not offer it any more: it is kept, and not given to anybody
    spoilt: int = 0  #: how often wrong bytes had been given out as the file, before this one came
    format: Literal[1] = 1


class LibraryImage(msgspec.Struct, frozen=True):
    """An image of the library. `document` is not to be changed."""

    manifest: Manifest
    entry: Entry
    encoded: bytes  #: the manifest as JSON, as others get it: with the index that is here, and no other
    etag: str  #: SHA-1 of that, in hexadecimal
    size: int  #: bytes of the file; 0 while it has none
    icon: bool
    used_at: float  #: seconds since the epoch

    @property
    def uuid(self) -> str:
        """The image's uuid."""
        return self.manifest.uuid

    @property
    def document(self) -> Mapping[str, Any]:
        """The manifest."""
        return self.manifest.document


def image_of(manifest: Manifest, entry: Entry, size: int, *, icon: bool, used_at: float) -> LibraryImage:
    """The image with this record. `size` is of its file in bytes, `used_at` in seconds since the epoch."""
    size_and_hash = entry.index or (0, "")
    index = FileIndex(size_and_hash[1], size_and_hash[0]) if size_and_hash[0] else None
    encoded = msgspec.json.encode(with_index(manifest.document, index))
    etag = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()
    return LibraryImage(manifest, entry, encoded, etag, size, icon, used_at)


def read_image(folder: Path, *, tidy: bool = True) -> LibraryImage:
    """The image in a folder. With `tidy`, removes what a daemon that died left in it.

    Raises `OSError`, `msgspec.MsgspecError`, and `InvalidManifestError` for what is not as it should be.
    """
    encoded = _limited(folder / MANIFEST)
    entry = decoded(_limited(folder / ENTRY), Entry)
    manifest = load(parse(encoded), rules=RULES[entry.kind])
    if manifest.uuid != folder.name:
        raise InvalidManifestError(f"the manifest is of image {manifest.uuid}")
    file = folder / FILE
    if manifest.file is None and entry.kind == "published" and tidy:
        # The daemon died between the end of an upload and the change of the manifest.
        file.unlink(missing_ok=True)
    size = file.stat().st_size if file.exists() else 0
    if manifest.file is not None and manifest.file.size not in (None, size):
        raise InvalidManifestError(f"the file has {size} bytes, the manifest says {manifest.file.size}")
    return image_of(
        manifest, entry, size, icon=(folder / ICON).exists(), used_at=(folder / ENTRY).stat().st_mtime
    )


def examined(folder: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, str | None]]:
    """Reads all of a library's folder: each name in it, and what is wrong with it. Changes nothing.

    With `names`, only those, as far as they are still there. A file that is still to come is wrong only when
    nobody waits for it any more. Raises `OSError`.
    """
    for path in sorted(folder.iterdir()):
        if names is not None and path.name not in names:
            continue
        if path.name.startswith((NEW, OLD)):
            yield path.name, "it is half made, or half removed"
        elif path.name.startswith(DAMAGED):
            yield path.name, "it was damaged, and set aside"
        elif path.name.startswith(COMING):
            late = path.lstat().st_mtime < time.time() - COMING_SECONDS
            yield path.name, "nobody has asked for it again" if late else None
        elif path.name.startswith(SPOILT):
            yield path.name, None
        elif UUID.fullmatch(path.name):
            yield path.name, _fault_of(path)
        else:
            yield path.name, "it is nothing of the library's"


def _fault_of(folder: Path) -> str | None:
    try:
        image = read_image(folder, tidy=False)
        names = {path.name for path in folder.iterdir()} - {FILE, MANIFEST, ICON, ENTRY}
        unknown = {name for name in names if not name.startswith(INDEX) or name.endswith(filesystem.NEW)}
        if unknown:
            return f"{min(unknown)} in it is nothing of the library's"
        if image.size:
            with (folder / FILE).open("rb", buffering=0) as file:
                _, sha256 = digests_of(file, image.manifest, lambda: None)
            if image.entry.sha256 not in (None, sha256):
                return f"its file has the SHA-256 {sha256}, and had {image.entry.sha256}"
        if image.entry.index is not None and image.entry.index[0]:
            with (folder / f"{INDEX}{image.entry.sha256}").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != image.entry.index[1]:
                    return "the index of its file is not the one that was made"
    except ImgstoreError as error:
        return error.message
    except (OSError, msgspec.MsgspecError) as error:
        return str(error)
    return None


def _limited(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        raise InvalidManifestError(f"{path} has more than {MAX_MANIFEST} bytes")
    return data


def digests_of(file: FileIO, manifest: Manifest, check: Callable[[], object]) -> tuple[str, str]:
    """MD5 in base64 and SHA-256 in hexadecimal. Raises `DownloadError` where the SHA-1 is another one."""
    sha1, md5 = (hashlib.new(name, usedforsecurity=False) for name in ("sha1", "md5"))
    sha256 = hashlib.sha256()
    while data := file.read(_BLOCK):
        check()
        for each in (sha1, md5, sha256):
            each.update(data)
    expected = None if manifest.file is None else manifest.file.sha1
    if expected not in (None, sha1.hexdigest()):
        raise DownloadError(
            f"the library's file of image {manifest.uuid} is damaged: its SHA-1 is {sha1.hexdigest()},"
            f" and was {expected}",
            hint="remove its folder from the library, and restart the daemon",
        )
    return base64.b64encode(md5.digest()).decode(), sha256.hexdigest()
