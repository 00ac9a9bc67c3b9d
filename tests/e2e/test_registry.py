"""Images in a real registry: published, imported, copied by others, and cut off at any moment."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time
import urllib.error
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from imgstored.registry import artifact
from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import started
from tests.sources.test_oci import put_image
from tests.support.daemon import Daemon
from tests.support.deltas import NEW, OLD, files, indexed, manifest_of, tree, upgraded
from tests.support.docker_registry import DockerRegistry, auth_file
from tests.support.faulty_server import FaultyServer, Request, Wire
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import Nginx
from tests.support.sluice import Sluice
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from pathlib import Path

MADE = "44444444-aaaa-4bbb-8ccc-000000000002"
MIB = 1 << 20


def source(url: str) -> str:
    return f'[[sources]]\nurl = "{url}"\n'


def publish(daemon: Daemon, folder: Path, manifest: dict[str, Any], file: bytes | Path, url: str) -> str:
    """Publishes with the real command; returns what it prints."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest))
    data = file if isinstance(file, bytes) else file.read_bytes()
    (folder / "file").write_bytes(data)
    return daemon.imgctl("publish", "-q", "-m", str(path), "-f", str(folder / "file"), url, check=True).stdout


def layered(seed: int, frames: int = 3, size: int = 8 * MIB) -> tuple[dict[str, Any], list[bytes]]:
    """A manifest, and the frames of its file."""
    stream = filesystem_stream(size=size, seed=seed)
    step = len(stream) // frames + 1
    compressor = zstandard.ZstdCompressor(level=1)
    pieces = [compressor.compress(stream[place : place + step]) for place in range(0, len(stream), step)]
    file = b"".join(pieces)
    manifest = fixture_manifest(BASE) | {"uuid": MADE, "name": "made", "version": "2"}
    described = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "zstd"}
    return manifest | {"files": [described]}, pieces


def test_an_image_and_its_origin_go_there_and_come_from_there(tmp_path):
    with DockerRegistry(tmp_path / "registry", htpasswd=True, tls=True) as registry:
        settings = (
            f'[[registries]]\nhost = "{registry.host}"\nca_file = "{registry.ca_file}"\n'
            f'auth_file = "{auth_file(tmp_path / "auth", registry.host)}"\n'
        )
        url = f"{registry.url}/fleet/images"
        config = f'[[sources]]\nurl = "{url}"\ntype = "oci"\n{settings}'
        with Daemon(tmp_path / "one", config=config) as daemon:
            for uuid in (BASE, INCREMENTAL):
                said = publish(daemon, tmp_path, fixture_manifest(uuid), fixture_file(uuid), url)
                assert said.endswith(f"Successfully published image {uuid} to {url}\n")
            listed = daemon.imgctl("avail", "-H", "-o", "uuid,name", check=True).stdout
            assert listed.splitlines() == [f"{BASE}  base", f"{INCREMENTAL}  incremental"]
            assert daemon.imgctl("import", "incremental", check=True).stdout.count("Imported image") == 2
            assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 2 images: 2 ok\n")
            assert "correct horse" not in daemon.log.read_text()
        tags = json.loads(registry.request("GET", "/v2/fleet/images/tags/list").content)["tags"]
        assert {BASE, "base-1.0.0", "base-latest", INCREMENTAL, "incremental-latest", "images"} < {*tags}
        base = registry.request("GET", f"/v2/fleet/images/manifests/{BASE}")
        digest = base.headers["Docker-Content-Digest"]
        child = json.loads(registry.request("GET", f"/v2/fleet/images/manifests/{INCREMENTAL}").content)
        assert child["artifactType"] == artifact.IMAGE
        assert child["annotations"]["vnd.imgstore.origin"] == BASE
        assert child["subject"]["digest"] == digest
        # The registry has no API for referrers; oras and others then look at this tag.
        listed = json.loads(
            registry.request("GET", f"/v2/fleet/images/manifests/{digest.replace(':', '-')}").content
        )
        assert [each["annotations"]["vnd.imgstore.uuid"] for each in listed["manifests"]] == [INCREMENTAL]
        (layer,) = child["layers"]
        assert (
            layer["digest"] == f"sha256:{hashlib.sha256(fixture_file(INCREMENTAL).read_bytes()).hexdigest()}"
        )


def test_a_source_by_command(registry, tmp_path):
    """Added, listed, shown and imported from as any other, and known after a restart."""
    with Daemon(tmp_path / "store") as daemon:
        publish(daemon, tmp_path, fixture_manifest(BASE), fixture_file(BASE), f"oci://{registry.host}/a/b")
        added = daemon.imgctl("sources", "-a", f"oci://{registry.host}/a/b", "-t", "oci", check=True).stdout
        assert added == f'Added "oci" image source "{registry.url}/a/b"\n'
        daemon.stop()
        daemon.start()
        listed = daemon.imgctl("avail", "-H", "-o", "uuid,name")
        assert listed.stdout == f"{BASE}  base\n", listed.stderr
        shown = json.loads(daemon.imgctl("show", BASE, check=True).stdout)
        assert shown["files"] == fixture_manifest(BASE)["files"]
        daemon.imgctl("import", BASE, check=True)
        refused = daemon.imgctl("sources", "-a", "oci://127.0.0.1:1/a", "-t", "oci")
        assert "SourcePing" in refused.stderr


def test_layers_at_an_object_store_whose_urls_expire(registry, tmp_path):
    """As clouds do: the registry redirects to signed URLs, each good for one request here."""
    manifest, pieces = layered(7, size=24 * MIB)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    good: set[str] = set()
    refused: list[str] = []

    def store(request: Request, wire: Wire) -> None:
        path, _, number = request.target.partition("?signed=")
        if number not in good:
            refused.append(number)
            wire.reply("403 Forbidden", {}, b"expired")
            return
        good.remove(number)
        assert "authorization" not in request.headers
        content = registry.request("GET", path).content
        if "range" in request.headers:
            wire.part(content, request)
        else:
            wire.reply("200 OK", {}, content)

    def front(request: Request, wire: Wire) -> None:
        if "/blobs/" in request.target:
            good.add(str(request.number))
            place = f"{behind.url}{request.target}?signed={request.number}"
            wire.reply("307 Temporary Redirect", {"Location": place})
            return
        try:
            found = registry.request("GET", request.target)
        except urllib.error.HTTPError as error:
            wire.reply(f"{error.code} X", {}, b"{}")
        else:
            wire.reply("200 OK", {"Content-Type": found.headers["Content-Type"]}, found.content)

    with FaultyServer(store) as behind, FaultyServer(front) as server:
        config = source(server.url.replace("http", "oci", 1) + "/images") + "[limits]\nconnections = 2\n"
        with Daemon(tmp_path / "store", config=config) as daemon:
            daemon.imgctl("import", MADE, check=True)
            assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 1 image: 1 ok\n")
    # A URL that was good before is tried first, and costs nothing more when it is not any more.
    assert refused


def test_layers_are_fetched_as_one_file(registry, tmp_path):
    manifest, pieces = layered(1)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    with Daemon(tmp_path / "store", config=source(f"oci://{registry.host}")) as daemon:
        daemon.imgctl("import", MADE, check=True)
        assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 1 image: 1 ok\n")


@pytest.mark.parametrize("damaged", [False, True])
def test_layers_that_are_here_are_not_fetched_again(registry, tmp_path, damaged):
    manifest, pieces = layered(1, frames=5)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    # The next version: four of five layers are the same.
    other = zstandard.ZstdCompressor(level=3).compress(zstandard.decompress(pieces[2]))
    newer = [*pieces[:2], other, *pieces[3:]]
    file = b"".join(newer)
    described = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "zstd"}
    second = manifest | {"uuid": ZVOL, "version": "3", "files": [described]}
    put_image(registry, "images", json.dumps(second).encode(), newer, stream=True)
    with Sluice(registry.port) as sluice:
        config = source(f"oci://127.0.0.1:{sluice.port}") + "[library]\nkeep_mib = 1000\n"
        with Daemon(tmp_path / "store", config=config) as daemon:
            daemon.imgctl("import", MADE, check=True)
            if damaged:
                kept = tmp_path / "store/state/library" / MADE / "file"
                kept.write_bytes(kept.read_bytes()[:-1] + b"x")
            sluice.hold(100 * MIB)
            daemon.imgctl("import", ZVOL, check=True)
            came = 100 * MIB - (sluice.left or 0)
            assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 2 images: 2 ok\n")
    # What is here, and is not what it was, is fetched: all of it, because nobody knows more.
    assert came >= len(file) if damaged else came <= len(file) / 4


def test_a_layer_that_is_not_what_its_digest_says_is_refused(registry, tmp_path):
    manifest, pieces = layered(1)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    digest = hashlib.sha256(pieces[1]).hexdigest()
    (stored,) = registry.folder.glob(f"storage/docker/registry/v2/blobs/sha256/*/{digest}/data")
    stored.write_bytes(pieces[1][:-1] + b"x")
    with Daemon(tmp_path / "store", config=source(f"oci://{registry.host}")) as daemon:
        refused = daemon.imgctl("import", MADE)
        assert refused.returncode != 0
        assert "layer 2 is" in refused.stderr
        assert daemon.imgctl("list", "-H").stdout == ""


def test_an_installed_image_is_published(registry, tmp_path):
    url = f"oci://{registry.host}/copies"
    with Daemon(tmp_path / "one", config=source(url)) as daemon:
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(fixture_manifest(BASE)))
        daemon.imgctl("install", "-m", str(path), "-f", str(fixture_file(BASE)), check=True)
        said = daemon.imgctl("publish", "-q", "base", url, check=True).stdout
        assert said.endswith(f"Successfully published image {BASE} to {url}\n")
    with Daemon(tmp_path / "two", config=source(url)) as daemon:
        daemon.imgctl("import", "base", check=True)
        assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 1 image: 1 ok\n")


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(
        ["/usr/bin/skopeo", "--insecure-policy", *arguments], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_copies_it_and_imgctl_imports_the_copy(registry, tmp_path):
    with Daemon(tmp_path / "one") as daemon:
        for uuid in (BASE, INCREMENTAL):
            publish(daemon, tmp_path, fixture_manifest(uuid), fixture_file(uuid), f"oci://{registry.host}")
    manifest, pieces = layered(2)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    here = f"docker://{registry.host}/images"
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"{here}:base-latest"))
    assert raw["artifactType"] == artifact.IMAGE
    # To a folder, and from there into another registry, one image; then the whole repository.
    skopeo("copy", "--src-tls-verify=false", f"{here}:{MADE}", f"oci:{tmp_path}/layout:{MADE}")
    with DockerRegistry(tmp_path / "other") as other:
        there = f"docker://{other.host}/images"
        skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:{MADE}", f"{there}:{MADE}")
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        skopeo("copy", "--all", *plain, f"{here}:images", f"{there}:images")
        for uuid in (BASE, INCREMENTAL):
            skopeo("copy", *plain, f"{here}:{uuid}", f"{there}:{uuid}")
        with Daemon(tmp_path / "two", config=source(f"oci://{other.host}")) as daemon:
            daemon.imgctl("import", INCREMENTAL, MADE, check=True)
            assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 3 images: 3 ok\n")


def test_images_are_mirrored_into_a_registry_and_from_it(registry, served, tmp_path):
    library = "[library]\nkeep_mib = 1000\n"
    there = f"oci://{registry.host}/copies"
    with Daemon(tmp_path / "one", config=static_source(served.url) + library) as daemon:
        said = daemon.imgctl("mirror", "-q", "--to", there, served.url, check=True).stdout
        assert said.count("Copied image") == 3
        again = daemon.imgctl("mirror", "-q", "--to", there, served.url, check=True).stdout
        assert again.count("Copied image") == 0
    child = json.loads(registry.request("GET", f"/v2/copies/manifests/{INCREMENTAL}").content)
    assert "subject" in child
    with Daemon(tmp_path / "two", config=source("http://127.0.0.1:1") + library) as daemon:
        said = daemon.imgctl("mirror", "-q", "--name", "incremental", there, check=True).stdout
        assert said.count("Mirrored image") == 2
        kept = tmp_path / "two/state/library" / INCREMENTAL / "file"
        assert kept.read_bytes() == fixture_file(INCREMENTAL).read_bytes()
        refused = daemon.imgctl("mirror", "-q", "--to", served.url, there)
        assert "is not a registry" in refused.stderr
        assert refused.returncode == 1


@pytest.mark.slow
def test_kill_9_while_it_is_published_leaves_all_or_nothing(registry, tmp_path):
    dice = random.Random(20261129)
    manifest, file = made_image(MADE, size=48 * MIB)
    path, data = tmp_path / "manifest.json", tmp_path / "file"
    path.write_text(json.dumps(manifest))
    data.write_bytes(file)
    url = f"oci://{registry.host}/images"
    command = ("publish", "-q", "-m", str(path), "-f", str(data), url)
    with Daemon(tmp_path / "store", config=source(url)) as daemon:
        for _ in range(3):
            client = started(daemon, *command)
            time.sleep(dice.uniform(0.2, 1.2))
            daemon.kill()
            client.communicate(timeout=30)
            daemon.start()
            listed = daemon.imgctl("avail", "-H", "-o", "uuid", check=True).stdout
            assert listed in ("", f"{MADE}\n")
            if listed:
                break
        daemon.imgctl(*command, check=True)
        daemon.imgctl("import", MADE, check=True)
        assert daemon.imgctl("verify", check=True).stdout.endswith("Verified 1 image: 1 ok\n")


def test_kill_9_while_layers_come_fetches_no_complete_range_again(registry, tmp_path):
    manifest, pieces = layered(3, size=24 * MIB)
    put_image(registry, "images", json.dumps(manifest).encode(), pieces, stream=True)
    size = manifest["files"][0]["size"]
    with Sluice(registry.port) as sluice:
        config = source(f"oci://127.0.0.1:{sluice.port}") + "[limits]\nconnections = 2\nmin_rate = 0\n"
        with Daemon(tmp_path / "store", config=config) as daemon:
            daemon.imgctl("avail", check=True)
            sluice.hold(14 * MIB)
            client = started(daemon, "import", MADE)
            deadline = time.monotonic() + 60
            while sluice.held < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            daemon.kill()
            client.communicate(timeout=30)
            sluice.hold(100 * MIB)
            daemon.start()
            printed = daemon.imgctl("import", MADE, check=True).stdout
            assert "Imported image" in printed or "already installed" in printed
            again = 100 * MIB - (sluice.left or 0)
            # 14 MiB had come, and each of the two connections may have lost a range of 4 MiB; and documents.
            assert again <= size - 14 * MIB + 8 * MIB + MIB


def bytes_of_blobs(front: Nginx) -> int:
    return sum(hit.bytes_sent for hit in front.settled_hits() if "/blobs/" in hit.path)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
def test_of_a_newer_version_a_host_fetches_what_is_new(tmp_path, registry, signed):
    """The index is an artifact of its own, which belongs to the image; the layers are as ever."""
    contents = files(3200, largest=60_000)
    streams = {OLD: tree(contents, guid=11), NEW: tree(upgraded(contents), guid=12)}
    url, words, keys = f"{registry.url}/fleet/images", [], ""
    with Daemon(tmp_path / "author", config=f'{source(url)}type = "oci"\n') as author:
        if signed:
            author.imgctl("keys", "make", str(tmp_path / "key"), check=True)
            words = ["--sign", str(tmp_path / "key")]
            keys = f"keys = [{json.dumps((tmp_path / 'key.pub').read_text().splitlines()[1])}]\n"
        for uuid, stream in streams.items():
            made = indexed(stream)
            manifest = tmp_path / "manifest.json"
            manifest.write_text(json.dumps(manifest_of(made, uuid)))
            (tmp_path / "file").write_bytes(made.file)
            author.imgctl(
                "publish", *words, "-m", str(manifest), "-f", str(tmp_path / "file"), url, check=True
            )
    image = registry.request("GET", f"/v2/fleet/images/manifests/{NEW}")
    document = json.loads(image.content)
    assert {layer["mediaType"] for layer in document["layers"]} == {artifact.STREAM}
    assert len(document["layers"]) > 1
    digest = image.headers["Docker-Content-Digest"].replace(":", "-")
    referrers = json.loads(registry.request("GET", f"/v2/fleet/images/manifests/{digest}").content)
    assert artifact.INDEX in [each["artifactType"] for each in referrers["manifests"]]
    with Nginx(tmp_path / "front", root=tmp_path, locations={"/": f"proxy_pass {registry.url};"}) as front:
        config = (
            f'[[sources]]\nurl = "{front.url}/fleet/images"\ntype = "oci"\n{keys}'
            '[limits]\ndeltas = "always"\n'
        )
        with Daemon(tmp_path / "reader", config=config) as reader:
            reader.imgctl("import", OLD, check=True)
            before = bytes_of_blobs(front)
            told = reader.imgctl("-v", "import", NEW, check=True).stderr
            assert f"the rest is in image {OLD} (tree@1)" in told
            sent = bytes_of_blobs(front) - before
            reader.imgctl("export", NEW, "-o", str(tmp_path / "out"), check=True)
    assert (tmp_path / "out.zfs").read_bytes() == streams[NEW]
    assert len(made.index) < sent < 0.4 * len(made.file)
