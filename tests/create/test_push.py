"""Publishing into a real registry."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.create import compress, layers
from imgstored.create.publish import Publisher
from imgstored.errors import APIError, ClientError, ImgstoreError, InvalidManifestError, UploadError
from imgstored.http.location import Access
from imgstored.registry import artifact, push
from imgstored.registry.client import Registries
from imgstored.registry.documents import EMPTY, Descriptor, described_document, encoded
from imgstored.registry.push import Uploads
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import open_source
from imgstored.transfer.decompress import DecompressLimits
from tests.site.test_minisign import KEY
from tests.support.docker_registry import DockerRegistry
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = DecompressLimits(max_image=1 << 30, max_ratio=500, decoder_memory=96 << 20)
STREAM = gzip.decompress(fixture_file(BASE).read_bytes())


@pytest.fixture
def registry(tmp_path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def small_frames(monkeypatch) -> None:
    monkeypatch.setattr(compress, "FRAME", 400_000)
    monkeypatch.setattr(layers, "FRAME", 400_000)


@contextmanager
def opened(folder: Path, data: bytes) -> Iterator[int]:
    (folder / "file").write_bytes(data)
    fd = os.open(folder / "file", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def described(manifest: dict[str, Any], data: bytes, compression: str) -> dict[str, Any]:
    sha1 = hashlib.sha1(data).hexdigest()
    return manifest | {"files": [{"sha1": sha1, "size": len(data), "compression": compression}]}


async def publish(
    registry: DockerRegistry,
    folder: Path,
    manifest: dict[str, Any],
    data: bytes,
    *,
    path: str = "images",
    uploads: Uploads | None = None,
    specs: tuple[SourceSpec, ...] = (),
    url: str | None = None,
    keys: tuple[str, ...] = (),
) -> list[Any]:
    publisher = Publisher(lambda: specs, uploads=uploads, decompress=LIMITS)
    with opened(folder, data) as fd:
        where = url or f"oci://{registry.host}/{path}"
        async with publisher.publish(manifest, fd, where, client="tests", path="file", keys=keys) as job:
            events = [event async for event in job]
            assert job.result == {"uuid": manifest["uuid"], "url": f"{registry.url}/{path}"}
            return events


def source(registry: DockerRegistry, path: str = "images", keys: tuple[str, ...] = ()) -> Any:
    return open_source(SourceSpec(f"{registry.url}/{path}", "oci", keys=keys), registries=Registries())


def put(registry: DockerRegistry, tag: str) -> Any:
    return json.loads(registry.request("GET", f"/v2/images/manifests/{tag}").content)


def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the chunks that are sent from now on."""
    sizes: list[int] = []
    original = push.Pusher._send_chunk

    async def counted(self: Any, place: Any, start: int, stop: int, read: Any) -> Any:
        sizes.append(stop - start)
        return await original(self, place, start, stop, read)

    monkeypatch.setattr(push.Pusher, "_send_chunk", counted)
    return sizes


async def test_an_image_is_published_as_it_is(registry, tmp_path):
    data = fixture_file(BASE).read_bytes()
    events = await publish(registry, tmp_path, fixture_manifest(BASE), data)
    assert [event["step"] for event in events if event["event"] == "publishing"] == ["file", "activated"]
    made = put(registry, BASE)
    assert made["layers"][0]["mediaType"] == artifact.FILE
    assert made["layers"][0]["annotations"] == {artifact.TITLE: "base-1.0.0.zfs.gz"}
    assert made["annotations"][artifact.UUID] == BASE
    assert put(registry, "base-1.0.0") == put(registry, "base-latest") == made
    offer = await source(registry).offer(BASE)
    assert dict(offer.manifest) == fixture_manifest(BASE)
    assert [dict(each.manifest) for each in await source(registry).list()] == [fixture_manifest(BASE)]
    index = put(registry, "images")
    assert [each["artifactType"] for each in index["manifests"]] == [artifact.LIST, artifact.IMAGE]


async def test_what_is_there_is_not_sent_again(registry, tmp_path, small_frames, monkeypatch):
    data = b"".join(compress.compressed([STREAM], "zstd"))
    manifest = described(fixture_manifest(BASE), data, "zstd")
    await publish(registry, tmp_path, manifest, data)
    made = put(registry, BASE)
    assert len(made["layers"]) > 2
    assert {layer["mediaType"] for layer in made["layers"]} == {artifact.STREAM}
    assert [layer["annotations"][artifact.TITLE] for layer in made["layers"]][1] == "base-1.0.0.zfs.zst.1"
    # A newer image that differs in one layer.
    sizes = sent(monkeypatch)
    changed = data[: -made["layers"][-1]["size"]] + b"".join(compress.compressed([b"changed"], "zstd"))
    newer = described(manifest | {"uuid": ZVOL, "version": "1.0.1"}, changed, "zstd")
    await publish(registry, tmp_path, newer, changed)
    shared = [layer["digest"] for layer in made["layers"][:-1]]
    assert [layer["digest"] for layer in put(registry, ZVOL)["layers"]][: len(shared)] == shared
    assert sum(sizes) < sum(layer["size"] for layer in made["layers"]) / 2
    # Into another repository all of it is mounted.
    uploads = Uploads()
    await publish(registry, tmp_path, manifest, data, uploads=uploads)
    for layer in made["layers"]:
        uploads.note(registry.url, layer["digest"], push.Upload("images"))
    sizes.clear()
    await publish(registry, tmp_path, manifest, data, path="other", uploads=uploads)
    assert sum(sizes) < 20_000  # the manifest, and the list
    assert (await source(registry, "other").offer(BASE)) is not None


class StopError(Exception):
    """Instead of kill -9."""


@pytest.mark.parametrize("signed", [False, True])
async def test_nothing_is_half_published(registry, tmp_path, small_frames, monkeypatch, signed):
    keys, trusted = ((KEY.file(),), (KEY.public.text,)) if signed else ((), ())
    data = b"".join(compress.compressed([STREAM], "zstd"))
    manifest = described(fixture_manifest(BASE), data, "zstd")
    original, count = push.Pusher._send, 0

    async def dies(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise StopError
        return await original(self, *arguments)

    monkeypatch.setattr(push.Pusher, "_send", dies)
    for at in range(1, 200):  # noqa: B007  `dies` reads it
        count = 0
        try:
            await publish(registry, tmp_path, manifest, data, keys=keys)
        except ImgstoreError:
            tags = [tag for tag in await source(registry)._repository.tags() if "sha256-" not in tag]
            offer = await source(registry, keys=trusted).offer(BASE)
            # The manifest, once it is there, is whole; names come after it, and the lists in the end. Whoever
            # has keys never meets it unsigned.
            assert offer is None or offer.location is not None
            if BASE not in tags:
                assert tags == []
        else:
            break
    assert count < at
    images = source(registry, keys=trusted)
    assert [each.manifest["uuid"] for each in await images.list()] == [BASE]
    assert not images.incomplete


async def test_the_latest_is_what_was_published_last(registry, tmp_path):
    data = fixture_file(BASE).read_bytes()
    older = fixture_manifest(BASE) | {"published_at": "2026-01-01T00:00:00Z"}
    newer = older | {"uuid": ZVOL, "version": "2", "published_at": "2026-02-01T00:00:00Z"}
    await publish(registry, tmp_path, newer, data)
    await publish(registry, tmp_path, older, data)
    assert put(registry, "base-latest") == put(registry, ZVOL)
    assert put(registry, "base-1.0.0") == put(registry, BASE)
    assert {each.manifest["uuid"] for each in await source(registry).list()} == {BASE, ZVOL}


async def test_an_origin_lists_what_is_built_on_it(registry, tmp_path):
    for uuid in (BASE, INCREMENTAL):
        await publish(registry, tmp_path, fixture_manifest(uuid), fixture_file(uuid).read_bytes())
    images = source(registry)._repository
    base = await images.document(BASE)
    (child,) = await images.referrers(base.digest, artifact.IMAGE)
    assert child.annotations[artifact.UUID] == INCREMENTAL


async def test_a_list_that_is_damaged_is_written_anew(registry, tmp_path):
    data = fixture_file(BASE).read_bytes()
    await publish(registry, tmp_path, fixture_manifest(BASE), data)
    for path in registry.folder.glob("storage/docker/registry/v2/blobs/sha256/*/*/data"):
        if path.read_bytes().startswith(b"[{"):
            path.write_bytes(b"[{")
    with pytest.raises(APIError):
        await source(registry).list()
    await publish(registry, tmp_path, fixture_manifest(ZVOL), fixture_file(ZVOL).read_bytes())
    assert {each.manifest["uuid"] for each in await source(registry).list()} == {BASE, ZVOL}


async def test_a_list_that_is_no_list_is_written_anew(registry, tmp_path):
    """Its digest is right; whoever wrote it was wrong."""
    made = artifact.list_manifest(
        Descriptor(EMPTY, **registry.blob("images", b"{}")),
        [Descriptor(artifact.LIST_JSON, **registry.blob("images", b"[{"))],
    )
    body = encoded(made)
    registry.manifest("images", "list", body, made.media_type)
    index = artifact.index_with(None, [], described_document(body, made))
    registry.manifest("images", artifact.INDEX_TAG, encoded(index), index.media_type)
    await publish(registry, tmp_path, fixture_manifest(ZVOL), fixture_file(ZVOL).read_bytes())
    assert [each.manifest["uuid"] for each in await source(registry).list()] == [ZVOL]


async def test_the_file_must_be_the_manifests(registry, tmp_path):
    data = fixture_file(BASE).read_bytes()
    with pytest.raises(UploadError, match="checksum"):
        await publish(registry, tmp_path, fixture_manifest(BASE), data[:-1] + b"x")
    with pytest.raises(UploadError, match="size"):
        await publish(registry, tmp_path, fixture_manifest(BASE), data + b"x")
    with pytest.raises(InvalidManifestError):
        await publish(registry, tmp_path, fixture_manifest(BASE) | {"files": []}, data)
    assert await source(registry)._repository.tags() == []


async def test_a_registry_by_its_url_is_known_by_the_sources(registry, tmp_path):
    spec = SourceSpec(f"{registry.url}/images", "oci", access=Access())
    data = fixture_file(BASE).read_bytes()
    await publish(registry, tmp_path, fixture_manifest(BASE), data, specs=(spec,), url=spec.url)
    assert await source(registry).offer(BASE) is not None


async def test_a_registry_elsewhere_needs_tls(registry, tmp_path):
    spec = SourceSpec("http://r.example/images", "oci")
    with pytest.raises(ClientError, match="without TLS"):
        await publish(registry, tmp_path, fixture_manifest(BASE), b"x" * 10, specs=(spec,), url=spec.url)
