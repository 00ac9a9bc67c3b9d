"""Container images as images of this host: one for each layer, as imgadm derives them (RFD 57). Pure.

The uuid of an image follows from the digests of its layer and of all below it, so that two container images
with the same lower layers share their images. Sources: node-imgmanifest's `imgManifestFromDockerInfo`, and
TritonDataCenter/rfd, rfd/0057.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import APIError, InvalidManifestError, NotSupportedError
from imgstored.manifest import NIL_UUID, parse, timestamp
from imgstored.registry.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.http.location import Contents
    from imgstored.registry.documents import Descriptor, ImageManifest, Index
    from imgstored.registry.reference import Reference

#: Layers of one image: what overlay file systems, and so builders, allow.
MAX_LAYERS: Final = 128
#: Bytes of a config.
MAX_CONFIG: Final = 1 << 20

#: The file that a layer is: by its media type, the compression as a manifest has it.
_COMPRESSIONS: Final = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}

#: By what a kernel calls its processor; of several, the first one in an index counts, as imgadm does it.
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", "386"),
    "amd64": ("amd64", "386"),
    "i86pc": ("amd64", "386"),
    "aarch64": ("arm64",),
    "arm64": ("arm64",),
}

#: What imgadm takes over of a config, and the brand lx starts a machine with.
_CONFIG: Final = ("Cmd", "Entrypoint", "Env", "WorkingDir")
_MAX_DESCRIPTION: Final = 10 * 1024
#: The owner of an image of which nobody is.
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
_LIBRARY: Final = "library/"


class LayerImage(Struct, frozen=True):
    """One layer, and the manifest of the image that it becomes."""

    uuid: str
    manifest: dict[str, Any]
    blob: Descriptor
    contents: Contents = "image"  #: what the blob is


def image_uuid(digests: Sequence[str]) -> str:
    """The uuid of the image that the layers with these digests make, the lowest layer first."""
    text = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"


def of_this_platform(url: str, index: Index, machine: str) -> Descriptor:
    """The image of the index that runs on Linux on this processor; `machine` is what uname(1) calls it.

    Raises `NotSupportedError` where there is none.
    """
    wanted = _ARCHITECTURES.get(machine.lower(), (machine.lower(),))
    named = [(each, each.platform) for each in index.manifests if each.platform is not None]
    for each, platform in named:
        if platform.os == "linux" and platform.architecture in wanted:
            return each
    there = sorted({f"{platform.os}/{platform.architecture}"[:60] for _, platform in named})
    raise NotSupportedError(
        f"{url}: there is no image for linux/{wanted[0]}, only for {', '.join(there[:10]) or 'nothing'}",
        hint="choose another tag, or name the image by its digest",
    )


def layer_images(url: str, reference: Reference, manifest: ImageManifest, config: bytes) -> list[LayerImage]:
    """The images that a container image's layers become, the lowest first. `config` is its config's JSON.

    Raises `APIError` for what is no container image, and `NotSupportedError` for one that cannot run here.
    """
    facts = _facts(url, config)
    layers = manifest.layers
    if not 0 < len(layers) <= MAX_LAYERS:
        raise NotSupportedError(
            f"{url}: the image has {len(layers)} layers", hint=f"it may have 1 to {MAX_LAYERS}"
        )
    if len(facts.diff_ids) != len(layers):
        raise _damaged(url, f"it has {len(layers)} layers, and its config {len(facts.diff_ids)}")
    digests = [layer.digest for layer in layers]
    if not all(_SHA256.fullmatch(digest) for digest in digests):
        raise NotSupportedError(f"{url}: a layer's digest is no SHA-256", hint="imgadm knows no other, too")
    images: list[LayerImage] = []
    for number, layer in enumerate(layers):
        uuid = image_uuid(digests[: number + 1])
        made = _manifest(reference, facts, layer, uuid, top=number == len(layers) - 1)
        if images:
            made["origin"] = images[-1].uuid
        images.append(LayerImage(uuid, made, _known(url, layer)))
    return images


class _Facts(Struct, frozen=True):
    """The fields of a config that are used."""

    created: str
    architecture: str
    description: str
    config: dict[str, Any]
    diff_ids: list[Any]


def _facts(url: str, config: bytes) -> _Facts:
    try:
        found = parse(config, limit=MAX_CONFIG)
    except InvalidManifestError as error:
        raise _damaged(url, f"its config: {error.message}") from error
    if (os := found.get("os")) != "linux":
        raise NotSupportedError(
            f'{url}: the image is for "{str(os)[:60]}", and not for linux', hint="choose another image"
        )
    rootfs, inner = found.get("rootfs"), found.get("config")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not isinstance(inner, dict | None):
        raise _damaged(url, "its config lists no layers")
    comment, architecture = found.get("comment"), found.get("architecture")
    return _Facts(
        moment(found.get("created")),
        architecture if isinstance(architecture, str) else "",
        comment[:_MAX_DESCRIPTION] if isinstance(comment, str) else "",
        _config(url, inner or {}),
        diff_ids,
    )


def _config(url: str, inner: dict[str, Any]) -> dict[str, Any]:
    """The fields that start the image's program; programs of root read them in the manifest."""
    found = {key: inner.get(key) for key in _CONFIG}
    for key, value in found.items():
        kind = str if key == "WorkingDir" else list
        texts = value if isinstance(value, list) else ()
        if not isinstance(value, kind | None) or not all(isinstance(each, str) for each in texts):
            raise _damaged(url, f"{key} in its config is of another kind")
    return found


def _manifest(
    reference: Reference, facts: _Facts, layer: Descriptor, uuid: str, *, top: bool
) -> dict[str, Any]:
    tags: dict[str, Any] = {
        "docker:repo": local_name(reference),
        "docker:id": layer.digest,
        "docker:architecture": facts.architecture,
    }
    if top and reference.tag is not None:
        tags[f"docker:tag:{reference.tag}"] = True
    tags["docker:config"] = facts.config
    return {
        "v": 2,
        "uuid": uuid,
        "owner": NIL_UUID,
        "name": "docker-layer",
        "version": layer.digest.partition(":")[2][:12],
        "disabled": False,
        "public": True,
        "published_at": facts.created,
        "type": "docker",
        "os": "linux",
        "description": facts.description,
        "files": [{"size": layer.size, "compression": _COMPRESSIONS.get(layer.media_type, "none")}],
        "tags": tags,
    }


def local_name(reference: Reference) -> str:
    """The repository as people write it: for Docker Hub without a host, and without `library/`."""
    if reference.host == DOCKER_HUB:
        return reference.path.removeprefix(_LIBRARY)
    return f"{reference.host}/{reference.path}"


def _known(url: str, layer: Descriptor) -> Descriptor:
    if layer.media_type not in _COMPRESSIONS:
        raise NotSupportedError(
            f'{url}: a layer is of the type "{layer.media_type[:80]}"',
            hint="it is no container image, or its layers are kept elsewhere, or encrypted",
        )
    return layer


def moment(text: Any) -> str:
    """A time of RFC 3339 in UTC with milliseconds, as imgadm has it; the epoch where there is none."""
    found = _MOMENT.fullmatch(text) if isinstance(text, str) else None
    moment = _EPOCH
    if found is not None:
        with suppress(ValueError, OverflowError):
            offset = "+00:00" if found[3] == "Z" else found[3]
            fraction = (found[2] or ".")[1:7].ljust(6, "0")
            moment = datetime.fromisoformat(f"{found[1]}.{fraction}{offset}").astimezone(UTC)
    return timestamp(moment)


def _damaged(url: str, why: str) -> APIError:
    return APIError(f"{url}: not a container image: {why}", hint="tell whoever published it")
