"""Container images as images of this host: uuids and manifests as imgadm derives them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import APIError, NotSupportedError
from imgstored.manifest import load
from imgstored.registry.containers import image_uuid, layer_images, of_this_platform
from imgstored.registry.documents import Descriptor, ImageManifest, Index, Platform
from imgstored.registry.reference import parse_reference

URL = "https://registry.example.com/v2/library/alpine/manifests/3.20"
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2024-05-22T18:18:12.052034407Z",
    "comment": "made by hand",
    "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "WorkingDir": "/", "Labels": {"a": "b"}},
    "rootfs": {"type": "layers", "diff_ids": [A, B]},
}


def manifest(*layers: Descriptor) -> ImageManifest:
    config = Descriptor("application/vnd.docker.container.image.v1+json", A, 100)
    return ImageManifest(config=config, layers=list(layers))


TWO = manifest(Descriptor(GZIP, A, 10), Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", B, 20))


def images(config: dict[str, Any] = CONFIG, of: ImageManifest = TWO, name: str = "alpine:3.20") -> Any:
    return layer_images(URL, parse_reference(name), of, json.dumps(config).encode())


def test_uuids_as_imgadm_derives_them():
    """The first 32 digits of `printf 'sha256:… sha256:…' | sha256sum` (imgUuidFromDockerDigests)."""
    assert image_uuid([A]) == "9f447b1b-473d-3598-84f2-b8541a1ad0b7"
    assert image_uuid([A, B]) == "ccd72292-8bd9-2476-ba17-45586fed6e45"


def test_the_manifests():
    bottom, top = images()
    assert top.manifest == {
        "v": 2,
        "uuid": image_uuid([A, B]),
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": "docker-layer",
        "version": "bbbbbbbbbbbb",
        "disabled": False,
        "public": True,
        "published_at": "2024-05-22T18:18:12.052Z",
        "type": "docker",
        "os": "linux",
        "description": "made by hand",
        "files": [{"size": 20, "compression": "zstd"}],
        "tags": {
            "docker:repo": "alpine",
            "docker:id": B,
            "docker:architecture": "amd64",
            "docker:tag:3.20": True,
            "docker:config": {
                "Cmd": ["/bin/sh"],
                "Entrypoint": None,
                "Env": ["PATH=/bin"],
                "WorkingDir": "/",
            },
        },
        "origin": image_uuid([A]),
    }
    assert "origin" not in bottom.manifest
    assert "docker:tag:3.20" not in bottom.manifest["tags"]
    assert (bottom.uuid, bottom.blob.digest) == (image_uuid([A]), A)
    for each in (bottom, top):
        assert load(each.manifest, rules="import").odd == ()


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("alpine:3", "alpine"),
        ("docker.io/joyent/web:1", "joyent/web"),
        ("quay.io/a/b:1", "quay.io/a/b"),
        ("localhost:5000/library/x:1", "localhost:5000/library/x"),
    ],
)
def test_the_repository_as_people_write_it(name, repo):
    assert images(name=name)[1].manifest["tags"]["docker:repo"] == repo


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2024-05-22T20:18:12+02:00", "2024-05-22T18:18:12.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00+02:00", "1970-01-01T00:00:00.000Z"),
        ("2024-02-31T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("yesterday", "1970-01-01T00:00:00.000Z"),
        (None, "1970-01-01T00:00:00.000Z"),
        (7, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_times(created, shown):
    assert images({**CONFIG, "created": created})[0].manifest["published_at"] == shown


@pytest.mark.parametrize(
    ("config", "of", "message"),
    [
        ({"os": "windows"}, TWO, 'is for "windows"'),
        ({"rootfs": {"diff_ids": [A]}}, TWO, "2 layers, and its config 1"),
        ({"rootfs": 7}, TWO, "lists no layers"),
        ({"config": []}, TWO, "lists no layers"),
        ({"config": {"Cmd": "/bin/sh"}}, TWO, "Cmd in its config is of another kind"),
        ({"config": {"Env": [{"A": 1}]}}, TWO, "Env in its config is of another kind"),
        ({"config": {"WorkingDir": ["/"]}}, TWO, "WorkingDir in its config is of another kind"),
        ({}, manifest(), "has 0 layers"),
        ({}, manifest(*[Descriptor(GZIP, A, 1)] * 129), "has 129 layers"),
        ({}, manifest(Descriptor("application/vnd.oci.image.config", A, 1), TWO.layers[0]), "is of the type"),
        ({}, manifest(Descriptor(GZIP, "sha512:" + "a" * 128, 1), TWO.layers[0]), "no SHA-256"),
    ],
)
def test_what_is_refused(config, of, message):
    with pytest.raises((APIError, NotSupportedError), match=message):
        images({**CONFIG, **config}, of)


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_config(config):
    with pytest.raises((APIError, NotSupportedError)):
        layer_images(URL, parse_reference("a"), TWO, config)


def test_the_image_for_this_processor():
    def one(digit: str, os: str, architecture: str) -> Descriptor:
        platform = Platform(architecture=architecture, os=os)
        return Descriptor(
            "application/vnd.oci.image.manifest.v1+json", "sha256:" + digit * 64, 1, platform=platform
        )

    arm, windows, amd, unknown = (
        one("1", "linux", "arm64"),
        one("2", "windows", "amd64"),
        one("3", "linux", "amd64"),
        one("4", "unknown", "unknown"),
    )
    index = Index(manifests=[unknown, arm, windows, amd])
    assert of_this_platform(URL, index, "i86pc") == of_this_platform(URL, index, "x86_64") == amd
    assert of_this_platform(URL, index, "aarch64") == arm
    with pytest.raises(NotSupportedError, match="for linux/riscv64, only for linux/amd64, linux/arm64"):
        of_this_platform(URL, index, "riscv64")
