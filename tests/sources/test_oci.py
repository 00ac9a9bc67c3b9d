from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import APIError, BadContentError, ClientError, InvalidManifestError
from imgstored.manifest import is_uuid, load, parse_entries
from imgstored.registry import artifact
from imgstored.registry.client import Registries, RegistrySpec
from imgstored.registry.documents import OCI_INDEX, OCI_MANIFEST, Descriptor, ImageManifest, encoded
from imgstored.registry.signature import SIGNATURE
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import LastLists, SourceClient, open_source
from imgstored.sources.health import HealthLog
from imgstored.sources.oci import OciSource
from imgstored.sources.search import Hit
from imgstored.sources.server import AskLimits
from tests.site.test_minisign import KEY
from tests.sources.contract import OLD, UNKNOWN, ImageServer, SourceContract
from tests.support.docker_registry import DockerRegistry, auth_file
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgstored.sources.base import Offer

_numbers = itertools.count(1)


def put_image(
    registry: DockerRegistry, repository: str, manifest: bytes, pieces: list[bytes], *, stream: bool = False
) -> dict[str, Any]:
    """Puts an image with its file in pieces; returns its descriptor. Its tag is the uuid."""
    layers = [
        artifact.Layer(**registry.blob(repository, piece), **({"stream_offset": 0} if stream else {}))
        for piece in pieces
    ]
    config = Descriptor(artifact.MANIFEST, **registry.blob(repository, manifest))
    registry.blob(repository, b"{}")
    document: ImageManifest = artifact.image_manifest({}, config, layers, "file")
    body = encoded(document)
    uuid = json.loads(manifest.partition(b', "n"')[0] + (b"}" if b', "n"' in manifest else b""))["uuid"]
    digest = registry.manifest(repository, uuid, body)
    return {
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": len(body),
        "artifactType": artifact.IMAGE,
        "annotations": {artifact.UUID: uuid},
    }


def put_list(registry: DockerRegistry, repository: str, text: bytes) -> None:
    """Puts the index, with a list of this text."""
    empty = {"mediaType": artifact.LIST, **registry.blob(repository, b"{}")}
    layer = {"mediaType": artifact.LIST_JSON, **registry.blob(repository, text)}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact.LIST,
        "config": empty,
        "layers": [layer],
    }
    body = json.dumps(document).encode()
    digest = registry.manifest(repository, f"sha256:{hashlib.sha256(body).hexdigest()}", body)
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body), "artifactType": artifact.LIST}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    registry.manifest(repository, artifact.INDEX_TAG, index)


class RegistryServer(ImageServer):
    """A repository of a real registry, behind an nginx that counts. What a test writes goes into it."""

    type = "oci"

    def __init__(self, root: Path, start_nginx: Any, registry: DockerRegistry) -> None:
        self.registry = registry
        self.repository = f"test-{next(_numbers)}"
        self.locations = {
            "/v2/images/": f"proxy_pass {registry.url}/v2/{self.repository}/;",
            "/v2/": f"proxy_pass {registry.url};",
        }
        super().__init__(root, start_nginx)

    def folder(self, uuid: str) -> Path:
        return self.root / "written" / uuid

    def write_list(self, text: str) -> None:
        put_list(self.registry, self.repository, text.encode())
        self._delete_others(text)
        written = self.root / "written"
        for folder in sorted(written.iterdir()) if written.exists() else []:
            if folder.name not in text.lower():
                continue
            files = [path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"]
            manifest = (folder / "manifest.json").read_bytes()
            put_image(self.registry, self.repository, manifest, [file for file in files if file])
        for uuid in self._listed(text):
            # What has no tag is not there, whatever a list says.
            put_image(self.registry, self.repository, json.dumps({"uuid": uuid}).encode(), [])

    def _delete_others(self, text: str) -> None:
        """Removes the tags of other images: the registry itself has no request for that."""
        tags = self.registry.folder / "storage/docker/registry/v2/repositories" / self.repository
        for tag in (tags / "_manifests/tags").iterdir():
            if is_uuid(tag.name) and tag.name not in text.lower():
                shutil.rmtree(tag)

    def _listed(self, text: str) -> list[str]:
        try:
            entries = parse_entries(text.encode())
        except InvalidManifestError:
            return []
        uuids = [
            str(entry["uuid"]).lower() for entry in entries if isinstance(entry, dict) and "uuid" in entry
        ]
        return [each for each in uuids if is_uuid(each) and not self.folder(each).exists()]


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as started:
        yield started


class TestContract(SourceContract):
    @pytest.fixture
    def server(self, site, start_nginx, registry):
        return RegistryServer(site, start_nginx, registry)


@pytest.fixture
def repository() -> str:
    return f"test-{next(_numbers)}"


def source(registry: DockerRegistry, repository: str, **settings: Any) -> Any:
    spec = RegistrySpec(registry.host, **settings)
    return open_source(SourceSpec(f"{registry.url}/{repository}", "oci"), registries=Registries([spec]))


def put_fixture(registry: DockerRegistry, repository: str, uuid: str) -> dict[str, Any]:
    manifest = json.dumps(fixture_manifest(uuid)).encode()
    return put_image(registry, repository, manifest, [fixture_file(uuid).read_bytes()])


async def test_images_that_are_in_no_list_are_there(registry, repository):
    put_fixture(registry, repository, BASE)
    listed = await source(registry, repository).list()
    assert [dict(image.manifest) for image in listed] == [fixture_manifest(BASE)]
    put_list(registry, repository, json.dumps([fixture_manifest(BASE)]).encode())
    put_fixture(registry, repository, ZVOL)
    images = source(registry, repository)
    assert [image.manifest["uuid"] for image in await images.list()] == [BASE, ZVOL]
    assert images.incomplete == ""


async def test_what_was_deleted_is_in_no_list(registry, repository):
    put_fixture(registry, repository, BASE)
    text = json.dumps([fixture_manifest(BASE), fixture_manifest(ZVOL)]).encode()
    put_list(registry, repository, text)
    assert [image.manifest["uuid"] for image in await source(registry, repository).list()] == [BASE]


async def test_an_unlisted_image_that_is_damaged_costs_itself_only(registry, repository):
    put_fixture(registry, repository, BASE)
    put_image(registry, repository, b'{"uuid": "%s"}' % OLD.encode(), [])
    registry.manifest(repository, UNKNOWN, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    images = source(registry, repository)
    assert [image.manifest["uuid"] for image in await images.list()] == [BASE, OLD]
    assert f"1 entry of the list of {registry.url}/{repository} is unusable" in images.incomplete
    with pytest.raises(APIError, match="not an image of imgstore"):
        await images.offer(UNKNOWN)


def asked(registry: DockerRegistry, repository: str, health: HealthLog, tmp_path: Path) -> SourceClient:
    """The client of a repository, as the daemon has it."""
    images = source(registry, repository)
    lists = LastLists(tmp_path / "lists")
    return SourceClient(images.spec, images, health=health, lists=lists, now=lambda: datetime.now(UTC))


def stored(registry: DockerRegistry, digest: str) -> Path:
    """Where the registry has a blob."""
    (found,) = registry.folder.glob(f"storage/docker/registry/v2/blobs/sha256/*/{digest[7:]}/data")
    return found


def read(offer: Offer) -> Hit:
    return Hit(load(offer.manifest, rules="import"), offer.location)


@pytest.mark.parametrize("damage", ["the manifest", "no manifest", "another image", "no image"])
async def test_what_is_damaged_of_an_image_is_no_fault_of_the_registry(tmp_path, repository, damage):
    health = HealthLog()
    with DockerRegistry(tmp_path / "registry") as registry:
        put_fixture(registry, repository, BASE)
        image = put_fixture(registry, repository, ZVOL)
        body = registry.request("GET", f"/v2/{repository}/manifests/{ZVOL}").content
        config = stored(registry, json.loads(body)["config"]["digest"])
        if damage == "the manifest":
            config.write_bytes(config.read_bytes().replace(b"zvol", b"zv0l"))
        elif damage == "no manifest":
            config.unlink()
        elif damage == "another image":
            other = registry.request("GET", f"/v2/{repository}/manifests/{BASE}").content
            registry.manifest(repository, ZVOL, other)
        else:
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image]}
            registry.manifest(repository, ZVOL, index)
        client = asked(registry, repository, health, tmp_path)
        refused = await client.offer(ZVOL, read)
        assert isinstance(refused, BadContentError)
        assert health.of(client.spec).error is None
        assert health.of(client.spec).answered_at is not None
        assert isinstance(await client.offer(BASE, read), Hit)
    # What is of the registry counts.
    assert isinstance(await client.offer(BASE, read), ClientError)
    assert health.of(client.spec).error is not None


@pytest.mark.parametrize("status", ["500 Internal Server Error", "403 Forbidden"])
async def test_a_registry_that_fails_or_refuses_counts_as_down(start_faulty, tmp_path, status):
    health = HealthLog()
    faulty = start_faulty(lambda _, wire: wire.reply(status, {}, b"{}"))
    images = OciSource(SourceSpec(f"{faulty.url}/images", "oci"), registries=Registries(), limits=AskLimits())
    lists = LastLists(tmp_path / "lists")
    client = SourceClient(images.spec, images, health=health, lists=lists, now=lambda: datetime.now(UTC))
    assert isinstance(await client.offer(BASE, read), APIError)
    assert health.of(images.spec).error is not None


async def test_an_offer_of_several_layers(registry, repository):
    file = fixture_file(ZVOL).read_bytes()
    pieces = [file[:1000], file[1000:5000], file[5000:]]
    put_image(registry, repository, json.dumps(fixture_manifest(ZVOL)).encode(), pieces)
    offer = await source(registry, repository).offer(ZVOL)
    assert [part.size for part in offer.location.parts] == [1000, 4000, len(file) - 5000]
    assert [part.sha256 for part in offer.location.parts] == [
        hashlib.sha256(each).hexdigest() for each in pieces
    ]
    assert offer.location.source == f"{registry.url}/{repository}"


async def test_an_offer_of_mirrors(registry, repository, tmp_path):
    put_fixture(registry, repository, INCREMENTAL)
    with DockerRegistry(tmp_path / "other") as mirror:
        offer = await source(registry, repository, mirrors=(mirror.url,)).offer(INCREMENTAL)
    assert offer.location.url.startswith(mirror.url)
    assert [other.url.partition("/v2")[0] for other in offer.others] == [registry.url]


def with_tags(start_faulty: Any, images: Any, seconds: float) -> OciSource:
    """A repository with two images and no list; `images` answers what is asked about these."""

    def answer(request: Any, wire: Any) -> None:
        if "/tags/" in request.target:
            wire.reply("200 OK", {}, json.dumps({"tags": [BASE, ZVOL]}).encode())
        elif request.target.endswith(f"/{artifact.INDEX_TAG}"):
            wire.reply("404 Not Found", {}, b"{}")
        else:
            images(wire)

    spec = SourceSpec(f"{start_faulty(answer).url}/images", "oci")
    return OciSource(spec, registries=Registries(), limits=AskLimits(), unlisted_seconds=seconds)


async def test_images_that_do_not_come_keep_nobody_waiting(start_faulty):
    over = threading.Event()
    try:
        images = with_tags(start_faulty, lambda wire: over.wait(60), seconds=0.3)
        assert await images.list() == []
        assert images.incomplete is not None
        assert images.incomplete.startswith("2 images of ")
    finally:
        over.set()


async def test_signatures_that_do_not_come_keep_nobody_waiting(start_faulty, registry, repository):
    """Each by itself may take a minute, and whoever may push can add some."""
    put_fixture(registry, repository, BASE)
    over = threading.Event()
    digests = [f"sha256:{number:064}" for number in range(3)]
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": each, "size": 2, "artifactType": SIGNATURE} for each in digests
    ]
    referrers = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}

    def answer(request: Any, wire: Any) -> None:
        if "/referrers/" in request.target:
            wire.reply("200 OK", {"Content-Type": OCI_INDEX}, json.dumps(referrers).encode())
        elif request.target.rpartition("/")[2] in digests:
            over.wait(60)
        else:
            found = registry.request("GET", request.target)
            wire.reply("200 OK", {"Content-Type": found.headers["content-type"]}, found.content)

    spec = SourceSpec(f"{start_faulty(answer).url}/{repository}", "oci", keys=(KEY.public.text,))
    images = OciSource(spec, registries=Registries(), limits=AskLimits(), signature_seconds=0.5)
    try:
        with pytest.raises(APIError, match="did not all come within"):
            await images.offer(BASE)
    finally:
        over.set()


async def test_a_connection_that_breaks_meanwhile_is_an_error_for_people(start_faulty):
    images = with_tags(start_faulty, lambda wire: wire.close(), seconds=60)
    with pytest.raises(ClientError):
        await images.list()


async def test_a_layer_of_a_newer_version_is_refused(registry, repository):
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact.IMAGE,
        "config": {
            "mediaType": artifact.MANIFEST,
            **registry.blob(repository, json.dumps({"uuid": BASE}).encode()),
        },
        "layers": [{"mediaType": "application/vnd.imgstore.stream.v9", **registry.blob(repository, b"x")}],
    }
    registry.manifest(repository, BASE, body)
    with pytest.raises(APIError, match="which this version cannot read"):
        await source(registry, repository).offer(BASE)


async def test_a_repository_that_needs_a_login(tmp_path, repository):
    with DockerRegistry(tmp_path / "registry", htpasswd=True) as registry:
        put_fixture(registry, repository, BASE)
        with pytest.raises(APIError, match="authentication required"):
            await source(registry, repository).ping()
        images = source(registry, repository, auth_file=str(auth_file(tmp_path / "auth", registry.host)))
        await images.ping()
        assert len(await images.list()) == 1


@pytest.mark.parametrize("url", ["http://r.example/images", "http://10.1.2.3:5000/images"])
def test_plain_http_to_another_host_is_refused(url):
    with pytest.raises(ClientError, match="not spoken to without TLS"):
        open_source(SourceSpec(url, "oci"))


def test_tags_of_images():
    manifest = {"uuid": BASE, "name": "base-64 lts", "version": "1/2"}
    assert artifact.tags_of(manifest) == (BASE, "base-64_lts-1_2", "base-64_lts-latest")
    assert artifact.tags_of({"uuid": BASE, "name": "n" * 200, "version": "1"})[1] == "n" * 128
    assert artifact.tags_of({"uuid": BASE, "name": "-", "version": "1"}) == (BASE,)
