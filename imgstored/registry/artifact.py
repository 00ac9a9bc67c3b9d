"""Our images in a registry: how an image, and the list of a repository's images, look there. Pure.

    tag UUID, NAME-VERSION, NAME-latest ──► image manifest ──► config: the image's manifest
                                                           └─► layers: the image's file
    tag `images` ──► index ──► every image manifest
                           └─► the list: a layer with a JSON array of the images' manifests, and one with
                               their signatures (`signature`)

docs/registries.md describes it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import BadContentError
from imgstored.http.location import shown
from imgstored.manifest import values
from imgstored.registry.documents import (
    EMPTY,
    EMPTY_JSON,
    Descriptor,
    ImageManifest,
    Index,
    described,
)
from imgstored.registry.reference import is_tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgstored.registry.client import Fetched

#: The artifact's type, and that of its parts. A change that older daemons cannot read raises the number.
IMAGE: Final = "application/vnd.imgstore.image.v1"
MANIFEST: Final = "application/vnd.imgstore.manifest.v1+json"
#: The whole of the image's file, bit for bit; a piece of it that stands alone: zstd frames, of whole records.
FILE: Final = "application/vnd.imgstore.file.v1"
STREAM: Final = "application/vnd.imgstore.stream.v1+zstd"
#: The index of the image's file, an artifact whose subject is the image: who cannot read it, does not see it.
INDEX: Final = "application/vnd.imgstore.index.v1"
LIST: Final = "application/vnd.imgstore.list.v1"
LIST_JSON: Final = "application/vnd.imgstore.list.v1+json"

#: The tag of the index, and the repository of a source that names only a host.
INDEX_TAG: Final = "images"
REPOSITORY: Final = "images"

#: Annotations: of an image, and of a layer (offset, size and digest in the decompressed stream).
UUID, ORIGIN, OS, TYPE = (f"vnd.imgstore.{name}" for name in ("uuid", "origin", "os", "type"))
OFFSET, SIZE, DIGEST = (f"vnd.imgstore.stream.{name}" for name in ("offset", "size", "digest"))
TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"
CREATED: Final = "org.opencontainers.image.created"

#: Descriptors of an index, so that it has no more bytes than registries take.
_MAX_LISTED: Final = 8000

_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9._-]")


class Layer(Struct, frozen=True):
    """A piece of an image's file."""

    digest: str
    size: int
    stream_offset: int | None = None  #: in the decompressed stream; None: the piece does not stand alone
    stream_size: int | None = None
    stream_digest: str | None = None


def image_manifest(
    manifest: Mapping[str, Any],
    config: Descriptor,
    layers: Sequence[Layer],
    file_name: str,
    origin: Descriptor | None = None,
) -> ImageManifest:
    """The image manifest of an image. `file_name` is what its file is called where somebody fetches it.

    `origin` is the image manifest of its origin, if that is in the same repository.
    """
    several = len(layers) > 1
    width = len(str(len(layers) - 1))
    described_layers = [
        Descriptor(
            STREAM if layer.stream_offset is not None else FILE,
            layer.digest,
            layer.size,
            annotations={
                TITLE: f"{file_name}.{place:0{width}}" if several else file_name,
                **_of_stream(layer),
            },
        )
        for place, layer in enumerate(layers)
    ]
    return ImageManifest(
        artifact_type=IMAGE,
        config=config,
        layers=described_layers or [described(EMPTY_JSON, EMPTY)],
        subject=None if origin is None else Descriptor(origin.media_type, origin.digest, origin.size),
        annotations=_annotations(manifest),
    )


def index_manifest(subject: Descriptor, layer: Descriptor) -> ImageManifest:
    """The manifest of the index of an image's file. The image's own manifest has the digest of the index."""
    return ImageManifest(
        artifact_type=INDEX,
        config=described(EMPTY_JSON, EMPTY),
        layers=[layer],
        subject=Descriptor(subject.media_type, subject.digest, subject.size),
    )


def _of_stream(layer: Layer) -> dict[str, str]:
    if layer.stream_offset is None:
        return {}
    return {
        OFFSET: str(layer.stream_offset),
        SIZE: str(layer.stream_size),
        DIGEST: str(layer.stream_digest),
    }


def _annotations(manifest: Mapping[str, Any]) -> dict[str, str]:
    names = {
        TITLE: "name",
        VERSION: "version",
        CREATED: "published_at",
        UUID: "uuid",
        ORIGIN: "origin",
        OS: "os",
        TYPE: "type",
    }
    found = {key: manifest.get(name) for key, name in names.items()}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def json_of(value: object) -> bytes:
    """The JSON of an image's manifest, or of a list of them: always the same for the same content."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def file_layers(fetched: Fetched) -> list[Descriptor]:
    """The layers that are an image's file, one after another; none where the image has no file.

    Raises `BadContentError` for what is not an image of ours.
    """
    document = fetched.document
    if not isinstance(document, ImageManifest) or document.kind not in (IMAGE, MANIFEST):
        kind = document.media_type if isinstance(document, Index) else document.kind
        raise BadContentError(
            f'{shown(fetched.url)}: not an image of imgstore, but "{kind[:80]}"',
            hint="`imgctl publish` puts images into a registry",
        )
    layers = [layer for layer in document.layers if layer.media_type != EMPTY and layer.size]
    for layer in layers:
        if layer.media_type not in (FILE, STREAM):
            raise BadContentError(
                f'{shown(fetched.url)}: a layer is "{layer.media_type[:80]}", which this version cannot read',
                hint="use a newer imgstore",
            )
    return layers


def tags_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The tags of an image: its uuid first, then what people call it."""
    uuid = str(manifest.get("uuid"))
    name, version = manifest.get("name"), manifest.get("version")
    if not isinstance(name, str) or not isinstance(version, str):
        return (uuid,)
    wanted = (f"{name}-{version}", f"{name}-latest")
    # A name may have characters that a tag may not, and it must not look like a uuid or be the index.
    named = [_NOT_IN_TAGS.sub("_", each)[:128] for each in wanted]
    return (uuid, *(tag for tag in named if is_tag(tag) and tag != INDEX_TAG and not values.is_uuid(tag)))


def list_in(index: Index) -> Descriptor | None:
    """The list's manifest in a repository's index."""
    return next((each for each in index.manifests if each.artifact_type == LIST), None)


def list_layer(manifest: ImageManifest, media_type: str = LIST_JSON) -> Descriptor | None:
    """The list in its manifest, or another layer there."""
    return next((each for each in manifest.layers if each.media_type == media_type), None)


def list_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> ImageManifest:
    """The manifest of a repository's list, and of the signatures of its images if there are some."""
    return ImageManifest(artifact_type=LIST, config=config, layers=[*layers])


def index_with(before: Index | None, images: Sequence[Descriptor], listed: Descriptor) -> Index:
    """The index of a repository: what it had, with these images, and the list in place of the one before."""
    new = {each.annotations.get(UUID): each for each in images}
    had = [
        each
        for each in (() if before is None else before.manifests)
        if each.artifact_type != LIST and each.annotations.get(UUID) not in new
    ]
    return Index(manifests=[listed, *[*had, *images][-_MAX_LISTED:]])
