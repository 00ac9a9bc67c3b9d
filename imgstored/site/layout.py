"""The files of a static site of images, and the index that a signature is of. No I/O.

    ping                     what imgadm looks for when it adds an IMGAPI server
    images/index.html        the list: an array of manifests
    images/UUID/index.html   a manifest
    images/UUID/file         the image's file
    images/UUID/file.index   of a file that can have one (docs/deltas.md); the manifest has its SHA-256
    images/UUID/icon         optional
    images/UUID/manifest-SHA256.json, images/list-SHA256.json
                             manifest and list once more, by their hashes, if the site is signed
    images/site-SHA256.json  the index: size and SHA-256 of the list and of each manifest and file
    images/site.minisig      the pointer: signatures of the index, whose trusted comments name it
    datasets/…               DSAPI's list and manifests, where the site knows its own address
    SHA256SUMS               for sha256sum(1)

Whoever has read the pointer knows all else by its hash, so that nothing of two states is mixed.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from imgstored.manifest import decoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of `images/`; what is in a source's URL.
IMAGES: Final = "images"
POINTER: Final = "site.minisig"
#: What the list and a manifest are called, so that a web server gives them for the folder.
PAGE: Final = "index.html"
FILE: Final = "file"
INDEX: Final = "file.index"
ICON: Final = "icon"

#: Bytes of an index: 50,000 images.
MAX_INDEX: Final = 32 << 20

_COMMENT: Final = re.compile(
    r"imgstore site 1 version=([0-9]{1,15}) until=([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
    r" index=([0-9a-f]{64}) size=([0-9]{1,9})",
    re.ASCII,
)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=1 << 62)]
_UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Uuid = Annotated[str, Meta(pattern=rf"^{_UUID}\Z")]


class Hashed(Struct, frozen=True, forbid_unknown_fields=True):
    """The hash and the size that identify bytes."""

    sha256: Sha256
    size: Size

    def is_of(self, data: bytes) -> bool:
        """True if the bytes are these."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


class Indexed(Struct, frozen=True, forbid_unknown_fields=True):
    """An image of the index."""

    uuid: Uuid
    manifest: Hashed
    file: Hashed


class Index(Struct, frozen=True, forbid_unknown_fields=True):
    """The contents that a signature vouches for."""

    list: Hashed
    images: tuple[Indexed, ...]
    format: Literal[1] = 1


class Pointer(Struct, frozen=True):
    """The contents of a pointer's trusted comment. Times in seconds since the epoch."""

    version: int
    until: int
    index: Hashed

    @property
    def comment(self) -> str:
        """The trusted comment."""
        until = datetime.fromtimestamp(self.until, UTC).strftime(_TIME)
        return (
            f"imgstore site 1 version={self.version} until={until}"
            f" index={self.index.sha256} size={self.index.size}"
        )


def parse_pointer(comment: str) -> Pointer:
    """The pointer in a trusted comment. Raises `ValueError`: it may be of anything else that a key signed."""
    match = _COMMENT.fullmatch(comment)
    if match is None:
        raise ValueError("its trusted comment is not that of a site of images")
    until = datetime.strptime(match[2], _TIME).replace(tzinfo=UTC)
    return Pointer(int(match[1]), int(until.timestamp()), Hashed(match[3], int(match[4])))


def parse_index(data: bytes) -> Index:
    """The index. Raises `ValueError`."""
    index = decoded(data, Index)
    if len({image.uuid for image in index.images}) != len(index.images):
        raise ValueError("an image is in it twice")
    return index


class Item(Struct, frozen=True):
    """An image to be shown by a site."""

    uuid: str
    manifest: bytes  #: JSON
    file: Hashed
    index: Hashed | None = None  #: of the file's index, which the manifest names


class Pages(Struct, frozen=True):
    """The small files of a site, by their paths from its root, but for the pointer."""

    manifests: dict[str, bytes]
    hashed: dict[str, bytes]  #: named by their own hashes, for clients with keys
    lists: dict[str, bytes]  #: what changes, and lists the others
    index: bytes


def hashed(data: bytes) -> Hashed:
    """The identity of bytes."""
    return Hashed(hashlib.sha256(data).hexdigest(), len(data))


def index_name(index: Hashed) -> str:
    """The name of an index in `images/`."""
    return f"site-{index.sha256}.json"


def list_name(listed: Hashed) -> str:
    """The name of a list in `images/`."""
    return f"list-{listed.sha256}.json"


def manifest_name(manifest: Hashed) -> str:
    """The name of a manifest, by its hash, in `images/UUID/`."""
    return f"manifest-{manifest.sha256}.json"


def pages(
    items: Sequence[Item], datasets: Sequence[Mapping[str, Any]], server: str, *, signed: bool
) -> Pages:
    """The pages of these images. `datasets` are their manifests of DSAPI, none where they are not wanted.

    `server` is the name and version that /ping gives.
    """
    listed = b"[" + b",\n".join(item.manifest for item in items) + b"]\n"
    index = Index(
        hashed(listed), tuple(Indexed(item.uuid, hashed(item.manifest), item.file) for item in items)
    )
    encoded = msgspec.json.encode(index) + b"\n"
    manifests = {f"{IMAGES}/{item.uuid}/{PAGE}": _harmless(item.manifest) for item in items}
    lists = {f"{IMAGES}/{PAGE}": _harmless(listed), "ping": _json(_ping(server))}
    if datasets:
        manifests |= {f"datasets/{each['uuid']}/{PAGE}": _harmless(_json(each)) for each in datasets}
        lists[f"datasets/{PAGE}"] = _harmless(_json(list(datasets)))
    sums = {path: hashed(data).sha256 for path, data in manifests.items()}
    sums |= {f"{IMAGES}/{item.uuid}/{FILE}": item.file.sha256 for item in items}
    sums |= {f"{IMAGES}/{item.uuid}/{INDEX}": item.index.sha256 for item in items if item.index is not None}
    lists["SHA256SUMS"] = "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode()
    named = {}
    if signed:
        for item in items:
            named[f"{IMAGES}/{item.uuid}/{manifest_name(hashed(item.manifest))}"] = item.manifest
        named[f"{IMAGES}/{list_name(index.list)}"] = listed
        named[f"{IMAGES}/{index_name(hashed(encoded))}"] = encoded
    return Pages(manifests, named, lists, encoded)


def _harmless(document: bytes) -> bytes:
    """The same JSON without a `<`: plain web servers call it HTML, and a manifest may have a script in it."""
    return document.replace(b"<", b"\\u003c")


def _ping(server: str) -> dict[str, Any]:
    return {"ping": "pong", "version": "2.0.0", "imgapi": True, "server": server}


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"
