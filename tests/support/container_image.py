"""Container images for a registry of the tests, of layers made by hand."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.docker_registry import DockerRegistry

_DOCKER = "application/vnd.docker"
_OCI = "application/vnd.oci.image"
CONFIG = f"{_DOCKER}.container.image.v1+json"
MANIFEST = f"{_DOCKER}.distribution.manifest.v2+json"
INDEX = f"{_OCI}.index.v1+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config_of(layers: Sequence[bytes], *, architecture: str = "amd64") -> bytes:
    return json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-05-22T18:18:12.052034407Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
    ).encode()


def push(
    registry: DockerRegistry,
    repository: str,
    tag: str,
    layers: Sequence[bytes],
    *,
    compression: str = "gzip",
    architecture: str = "amd64",
) -> dict[str, Any]:
    """Puts an image of these uncompressed layers there; returns its descriptor, with those of the layers."""
    config = registry.blob(repository, config_of(layers, architecture=architecture))
    packed = [_PACKED[compression](layer) for layer in layers]
    kind = {
        "gzip": f"{_DOCKER}.image.rootfs.diff.tar.gzip",
        "zstd": f"{_OCI}.layer.v1.tar+zstd",
        "none": f"{_OCI}.layer.v1.tar",
    }[compression]
    described = [{"mediaType": kind, **registry.blob(repository, each)} for each in packed]
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **config},
            "layers": described,
        }
    ).encode()
    digest = registry.manifest(repository, tag, body)
    return {"mediaType": MANIFEST, "digest": digest, "size": len(body), "layers": described}


def push_index(registry: DockerRegistry, repository: str, tag: str, images: dict[str, dict[str, Any]]) -> str:
    """Puts an index of images by architecture there."""
    listed = [
        {
            **{key: image[key] for key in ("mediaType", "digest", "size")},
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, image in images.items()
    ]
    return registry.manifest(repository, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})


_PACKED = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd": zstandard.ZstdCompressor().compress,
    "none": bytes,
}
