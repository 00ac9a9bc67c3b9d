"""Disks of virtual machines in registries, as images of this host. Pure.

Three forms: KubeVirt's container disks, container images with a disk in `/disk`; its artifacts of exported
machines, each disk a layer (pkg/storage/oci/oci.go there); and what `oras push` makes of a disk's file.
"""

from __future__ import annotations

import io
import re
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import APIError, LayerError, NotSupportedError
from imgstored.foreign_text import printable
from imgstored.layers.entries import Kind, entries
from imgstored.manifest import NIL_UUID
from imgstored.registry.artifact import CREATED, TITLE
from imgstored.registry.containers import LayerImage, image_uuid, local_name, moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.registry.documents import Descriptor, ImageManifest
    from imgstored.registry.reference import Reference

#: A layer of KubeVirt's types is a disk, whatever follows: `.raw+zstd`, `.raw+gzip`, `.qcow2`.
_KUBEVIRT: Final = "application/vnd.kubevirt.disk."
#: What the disk is called in the machine.
_DISK_NAME: Final = "io.kubevirt.disk.name"
#: Names of disks' files, as `oras push` notes them in a layer's title.
_FILE: Final = re.compile(r"(?i)[^\0]{1,250}\.(img|raw|qcow2|vmdk)(\.(gz|xz|zst|bz2))?")

#: Configs of container images. What has another one is an artifact, also where it says no type of its own: as
#: older clients of ORAS push it.
_CONTAINERS: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)

#: Bytes of a layer that tell whether it has a disk, compressed and not; and layers that are looked at.
HEAD: Final = 64 << 10
_MOST: Final = 1 << 20
MAX_LAYERS: Final = 4

_DIGEST: Final = "sha256:"


def disk_uuid(digest: str) -> str:
    """The uuid of the image of the disk that is, or is in, the blob with this digest."""
    return image_uuid(["disk", digest])


def artifact_disk(url: str, reference: Reference, manifest: ImageManifest) -> LayerImage | None:
    """The image of the disk that an artifact is; None for what is no such artifact.

    Raises `NotSupportedError` for several disks.
    """
    disks = [layer for layer in manifest.layers if _is_disk(manifest, layer)]
    if not disks:
        return None
    if len(disks) > 1:
        names = ", ".join(printable(disk.annotations.get(_DISK_NAME, "?")[:60]) for disk in disks[:10])
        raise NotSupportedError(
            f"{url}: a machine with {len(disks)} disks ({names})",
            hint="an image has one disk: push each by itself, as with `oras push`",
        )
    created = moment(manifest.annotations.get(CREATED))
    return _image(url, reference, disks[0], created, os="other", contents="disk")


def may_have_disk(config: dict[str, Any], layers: Sequence[Descriptor]) -> bool:
    """True if a layer of a container image may have a disk: container disks start no program."""
    inner = config.get("config")
    inner = inner if isinstance(inner, dict) else {}
    return len(layers) <= MAX_LAYERS and not inner.get("Cmd") and not inner.get("Entrypoint")


def has_disk(head: bytes) -> bool:
    """True if the layer that begins with `head` has a disk: a file in `/disk`, as its first file."""
    with suppress(LayerError):
        for entry, _ in entries(io.BytesIO(_uncompressed(head))):
            if entry.kind is Kind.FILE:
                return len(entry.path) == 2 and entry.path[0] == b"disk"
    return False


def container_disk(url: str, reference: Reference, config: dict[str, Any], layer: Descriptor) -> LayerImage:
    """The image of the disk in a layer of a container image."""
    created = moment(config.get("created"))
    return _image(url, reference, layer, created, os="linux", contents="layer with a disk")


def _is_disk(manifest: ImageManifest, layer: Descriptor) -> bool:
    if layer.media_type.startswith(_KUBEVIRT):
        return True
    is_artifact = manifest.artifact_type is not None or manifest.config.media_type not in _CONTAINERS
    title = layer.annotations.get(TITLE, "")
    return is_artifact and len(manifest.layers) == 1 and _FILE.fullmatch(title) is not None


def _image(
    url: str, reference: Reference, blob: Descriptor, created: str, *, os: str, contents: Any
) -> LayerImage:
    if not blob.digest.startswith(_DIGEST):
        raise NotSupportedError(f"{url}: the disk's digest is no SHA-256", hint="push it again with another")
    if not blob.size:
        raise APIError(f"{url}: the disk is empty", hint="tell whoever published it")
    uuid = disk_uuid(blob.digest)
    manifest = {
        "v": 2,
        "uuid": uuid,
        "owner": NIL_UUID,
        "name": reference.path.rpartition("/")[2],
        "version": reference.tag or blob.digest.removeprefix(_DIGEST)[:12],
        "disabled": False,
        "public": True,
        "published_at": created,
        "type": "zvol",
        "os": os,
        "disk_driver": "virtio",
        "nic_driver": "virtio",
        "files": [{"size": blob.size, "compression": "none", "digest": blob.digest}],
        "tags": {"oci:repo": local_name(reference), "oci:digest": blob.digest},
    }
    return LayerImage(uuid, manifest, blob, contents)


def _uncompressed(head: bytes) -> bytes:
    """The first bytes of a layer, decompressed as far as they go."""
    if head.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=31).decompress(head, _MOST)
        return b""
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import zstandard
        except ImportError:
            return b""
        with suppress(zstandard.ZstdError):
            # A frame that says that it needs more is not decoded.
            reader = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(head)
            return bytes(reader.read(_MOST))
        return b""
    return head
