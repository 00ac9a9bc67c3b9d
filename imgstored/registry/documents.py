"""The documents of registries: descriptors, image manifests and indexes, as read and as written. Pure.

What is read is bounded and checked before anything is done with it; what is written has one form, so that
the same content has the same digest.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from imgstored.errors import BadContentError, InvalidManifestError
from imgstored.http.location import shown
from imgstored.manifest import parse
from imgstored.registry.reference import digest_of, is_digest, matches

#: Bytes of a manifest or an index: registries take no more.
MAX_DOCUMENT: Final = 4 << 20

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"

#: What the empty descriptor stands for.
EMPTY_JSON: Final = b"{}"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

#: The Accept header of requests for manifests and indexes.
ACCEPT: Final = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))

#: Elements of one document, and bytes of all layers of one image.
_MAX_LAYERS: Final = 20_000
_MAX_MANIFESTS: Final = 20_000
_MAX_SIZE: Final = 1 << 40

_T = TypeVar("_T")

_Size = Annotated[int, Meta(ge=0, le=_MAX_SIZE)]
_MediaType = Annotated[str, Meta(max_length=255)]


class Platform(Struct, frozen=True):
    """The platform that an image runs on."""

    architecture: str = ""
    os: str = ""


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A descriptor: the type, digest and size of a blob. URLs and data in it are not used."""

    media_type: _MediaType
    digest: str
    size: _Size
    annotations: dict[str, str] = {}
    artifact_type: _MediaType | None = None
    platform: Platform | None = None

    def is_of(self, body: bytes) -> bool:
        """True if the bytes have the size and the digest."""
        return len(body) == self.size and matches(body, self.digest)


class ImageManifest(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An image, or an artifact in the form of one."""

    schema_version: int = field(default_factory=lambda: 2)
    media_type: _MediaType = field(default_factory=lambda: OCI_MANIFEST)
    artifact_type: _MediaType | None = None
    config: Descriptor
    layers: Annotated[list[Descriptor], Meta(max_length=_MAX_LAYERS)]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """The artifact's type; the config's where it has none, as the specification says."""
        return self.artifact_type or self.config.media_type


class Index(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A list of manifests and indexes."""

    schema_version: int = field(default_factory=lambda: 2)
    media_type: _MediaType = field(default_factory=lambda: OCI_INDEX)
    artifact_type: _MediaType | None = None
    manifests: Annotated[list[Descriptor], Meta(max_length=_MAX_MANIFESTS)]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


def read_document(url: str, body: bytes, media_type: str) -> ImageManifest | Index:
    """A manifest or an index. `media_type` is what the server, or a descriptor, calls it; "" if nobody does.

    Raises `BadContentError`, also where the document calls itself something else, and for schema 1.
    """
    content = _object(url, body)
    _check_version(url, content)
    known = _media_type(url, content, media_type)
    if known in INDEXES:
        index = _converted(url, {**content, "mediaType": known}, Index)
        _check(url, index.manifests)
        return index
    manifest = _converted(url, {**content, "mediaType": known}, ImageManifest)
    _check(url, [manifest.config, *manifest.layers])
    return manifest


def _media_type(url: str, content: dict[str, Any], media_type: str) -> str:
    """The media type of a document, which must not be two things at once (CVE-2021-41190)."""
    stated = content.get("mediaType")
    said = media_type.partition(";")[0].strip().lower()
    known = said if said in MANIFESTS | INDEXES else stated
    if known is None:
        known = OCI_INDEX if "manifests" in content else OCI_MANIFEST
    if not isinstance(known, str) or known not in MANIFESTS | INDEXES:
        raise _damaged(url, f'its type is "{str(known)[:80]}"')
    if stated not in (None, known):
        raise _damaged(url, f'it is called "{known}" and calls itself "{str(stated)[:80]}"')
    if "manifests" in content and ("layers" in content or "config" in content):
        raise _damaged(url, "it is an index and an image at once")
    return known


def encoded(document: ImageManifest | Index) -> bytes:
    """The document's bytes, always the same for the same content."""
    return msgspec.json.encode(document, order="deterministic")


def described(body: bytes, media_type: str, **more: Any) -> Descriptor:
    """The descriptor of some bytes."""
    return Descriptor(media_type, digest_of(body), len(body), **more)


def described_document(body: bytes, document: ImageManifest | Index) -> Descriptor:
    """The descriptor of an encoded document, as an index or a referrer's list has it."""
    kind = document.artifact_type
    return described(body, document.media_type, annotations=dict(document.annotations), artifact_type=kind)


def _object(url: str, body: bytes) -> dict[str, Any]:
    if len(body) > MAX_DOCUMENT:
        raise _damaged(url, f"it has more than {MAX_DOCUMENT} bytes")
    try:
        return parse(body, limit=MAX_DOCUMENT)
    except InvalidManifestError as error:
        raise _damaged(url, error.message) from error


def _check_version(url: str, content: dict[str, Any]) -> None:
    version = content.get("schemaVersion")
    if version == 1:
        raise BadContentError(
            f"{shown(url)}: the image has schema version 1, which is not supported",
            hint="it names no sizes, and clients have left it: push the image again with a newer one",
        )
    if version != 2:
        raise _damaged(url, "its schemaVersion is not 2")


def _converted(url: str, content: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise _damaged(url, str(error)) from error


def _check(url: str, descriptors: list[Descriptor]) -> None:
    if not all(is_digest(each.digest) for each in descriptors):
        raise _damaged(url, "a digest is neither SHA-256 nor SHA-512")
    if sum(each.size for each in descriptors) > _MAX_SIZE:
        raise _damaged(url, f"what it names has more than {_MAX_SIZE} bytes")


def _damaged(url: str, why: str) -> BadContentError:
    return BadContentError(
        f"{shown(url)}: not a document of a registry: {why}",
        hint="see that the address is a registry's, and tell its operator",
    )
