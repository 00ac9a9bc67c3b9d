"""Disks of virtual machines, made by qemu-img, and the forms in which registries have them."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support.container_image import MANIFEST, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.docker_registry import DockerRegistry

KUBEVIRT = "application/vnd.kubevirt.disk"
OCI = "application/vnd.oci.image"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"


def raw_disk(path: Path, *, size: int = 8 << 20, seed: int = 1) -> bytes:
    """A raw disk with some data at its begin and in its middle, and zeros at its end; its contents."""
    chance = random.Random(seed)
    content = bytearray(size)
    for offset in (512, size // 2):
        content[offset : offset + 300_000] = chance.randbytes(300_000)
    path.write_bytes(content)
    return bytes(content)


def qcow2_of(raw: Path, *arguments: str) -> bytes:
    path = raw.with_suffix(".qcow2")
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", *arguments, str(raw), str(path)],
        check=True,
        capture_output=True,
    )
    return path.read_bytes()


def push_container_disk(
    registry: DockerRegistry,
    repository: str,
    tag: str,
    layer: bytes,
    *,
    config: Mapping[str, Any] | None = None,
) -> str:
    """As `FROM scratch; ADD disk.img /disk/`: an image that starts nothing. Returns its layer's digest."""
    made = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-05-22T18:18:12Z",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        **(config or {}),
    }
    kind = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(layer[:2], "")
    described = {"mediaType": f"{OCI}.layer.v1.tar{kind}", **registry.blob(repository, layer)}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            **registry.blob(repository, json.dumps(made).encode()),
        },
        "layers": [described],
    }
    registry.manifest(repository, tag, document)
    return str(described["digest"])


def push_artifact(
    registry: DockerRegistry,
    repository: str,
    tag: str,
    *layers: tuple[str, bytes, Mapping[str, str]],
    artifact: str | None = None,
    config: str = EMPTY,
) -> list[str]:
    """Each layer by its media type, contents and annotations; `artifact` is the type. Returns the digests.

    `config` is the type of its config, which is `{}`.
    """
    described = [
        {"mediaType": kind, "annotations": dict(notes), **registry.blob(repository, data)}
        for kind, data, notes in layers
    ]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": {"mediaType": config, **registry.blob(repository, b"{}")},
        "layers": described,
    }
    if artifact is not None:
        document["artifactType"] = artifact
    registry.manifest(repository, tag, document)
    return [str(each["digest"]) for each in described]
