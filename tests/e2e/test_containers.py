"""Container images from a real registry: `imgctl import HOST/PATH:TAG`."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
from imgctl.errors import NotConnectedError

from imgstored.registry.containers import image_uuid
from tests.e2e.test_on_demand import until
from tests.e2e.test_registry import skopeo
from tests.pools.layer_contract import BOTH, BOTTOM, TOP, owned
from tests.support.container_image import push, push_index
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.layers import file, listing
from tests.support.sluice import Sluice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgproto.events import EventDocument

LAYERS = [owned(*BOTTOM), owned(*TOP)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "store") as started:
        yield started


def tree_of(daemon: Daemon, uuid: str) -> Path:
    [tree] = daemon.folder.glob(f"state/**/{uuid}/tree")
    return tree


def uuids_of(image: dict[str, list[dict[str, str]]]) -> list[str]:
    digests = [layer["digest"] for layer in image["layers"]]
    return [image_uuid(digests[: number + 1]) for number in range(len(digests))]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_each_layer_becomes_an_image(registry: DockerRegistry, daemon: Daemon, compression: str) -> None:
    image = push(registry, "library/demo", "1.0", LAYERS, compression=compression)
    below, above = uuids_of(image)
    name = f"{registry.host}/library/demo:1.0"
    planned = daemon.imgctl("import", "--dry-run", name, check=True).stdout
    assert below in planned
    done = daemon.imgctl("import", name, check=True)
    assert f"Imported image {below}" in done.stdout
    assert f"Imported image {above}" in done.stdout
    assert listing(tree_of(daemon, above)) == BOTH
    manifest = json.loads((daemon.images / above / "manifest.json").read_text())
    assert (manifest["type"], manifest["origin"]) == ("docker", below)
    assert manifest["tags"]["docker:tag:1.0"] is True
    assert manifest["tags"]["docker:config"]["Cmd"] == ["/bin/sh"]
    # As imgadm lists them: the uppermost layer alone.
    listed = daemon.imgctl("list", "--docker", check=True).stdout.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[above, f"{registry.host}/library/demo", "1.0"]]
    verified = daemon.imgctl("verify", above)
    assert "is ok" in verified.stdout, verified.stdout + verified.stderr
    refused = daemon.imgctl("delete", below)
    assert "dependent clones" in refused.stderr
    daemon.imgctl("delete", above, check=True)
    daemon.imgctl("delete", below, check=True)


def test_what_skopeo_copies(registry: DockerRegistry, daemon: Daemon, tmp_path: Path) -> None:
    """Out of one registry into a folder, from there into another one, as it is and in OCI's form."""
    image = push(registry, "library/demo", "1.0", LAYERS)
    skopeo(
        "copy", "--src-tls-verify=false", f"docker://{registry.host}/library/demo:1.0", f"dir:{tmp_path}/dir"
    )
    with DockerRegistry(tmp_path / "other") as other:
        there = f"docker://{other.host}/demo"
        skopeo("copy", "--dest-tls-verify=false", f"dir:{tmp_path}/dir", f"{there}:same")
        skopeo("copy", "--dest-tls-verify=false", "--format", "oci", f"dir:{tmp_path}/dir", f"{there}:oci")
        daemon.imgctl("import", f"{other.host}/demo:oci", check=True)
        assert listing(tree_of(daemon, uuids_of(image)[-1])) == BOTH
        # The same layers are the same images, whatever form their manifest has.
        again = daemon.imgctl("import", f"{other.host}/demo:same", check=True).stdout
        assert "already installed" in again


def test_a_shared_layer_is_not_fetched_again(registry: DockerRegistry, daemon: Daemon) -> None:
    push(registry, "a", "1", LAYERS)
    image = push(registry, "b", "1", [LAYERS[0], owned(file("other"))])
    below, above = uuids_of(image)
    daemon.imgctl("import", f"{registry.host}/a:1", check=True)
    done = daemon.imgctl("import", f"{registry.host}/b:1", check=True).stdout
    assert f"Imported image {above}" in done
    assert f"Imported image {below}" not in done


def test_the_image_for_this_processor(registry: DockerRegistry, daemon: Daemon) -> None:
    images = {
        name: push(registry, "multi", name, [owned(file(name))], architecture=name)
        for name in ("s390x", "amd64", "arm64")
    }
    push_index(registry, "multi", "latest", images)
    daemon.imgctl("import", f"{registry.host}/multi:latest", check=True)
    [row] = json.loads(daemon.imgctl("list", "-j", check=True).stdout)
    assert row["manifest"]["tags"]["docker:architecture"] in ("amd64", "arm64")


def test_a_tag_that_moves_on_means_the_old_image_for_an_import_under_way(
    registry: DockerRegistry, daemon: Daemon
) -> None:
    """Killed and started again, the daemon goes on with the digest that the tag had."""
    image = push(registry, "moving", "1", [owned(file("big", random.Random(1).randbytes(30_000_000)))])

    def killing(event: EventDocument) -> None:
        if event["event"] == "progress" and any(image["done"] for image in event["images"]):
            daemon.kill()

    with Sluice(registry.port) as sluice:
        sluice.hold(8 << 20)
        with daemon.client() as client, pytest.raises(NotConnectedError):
            client.ensure(f"127.0.0.1:{sluice.port}/moving:1", on_event=killing)
        sluice.open()
        push(registry, "moving", "1", [owned(file("new"))])
        daemon.start()
        with daemon.client() as client:
            until(client.list, seconds=60)
    assert "big" in listing(tree_of(daemon, uuids_of(image)[-1]))


def test_what_is_not_there(registry: DockerRegistry, daemon: Daemon) -> None:
    refused = daemon.imgctl("import", f"{registry.host}/missing:1")
    assert refused.returncode == 1
    assert f'there is no container image "{registry.host}/missing:1"' in refused.stderr


def test_a_layer_that_is_not_what_its_digest_says(registry: DockerRegistry, daemon: Daemon) -> None:
    image = push(registry, "bad", "1", LAYERS)
    digest = image["layers"][0]["digest"].removeprefix("sha256:")
    [data] = registry.folder.glob(f"storage/**/blobs/sha256/{digest[:2]}/{digest}/data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    refused = daemon.imgctl("import", f"{registry.host}/bad:1")
    assert refused.returncode == 1
    assert daemon.imgctl("list", "-j", check=True).stdout.strip() == "[]"


def test_a_layer_that_leads_out(registry: DockerRegistry, daemon: Daemon) -> None:
    # The fault shows before all of the layer is there.
    content = random.Random(1).randbytes(4 << 20)
    push(registry, "evil", "1", [owned(file("../../../../evil"), file("large", content))])
    refused = daemon.imgctl("import", f"{registry.host}/evil:1")
    assert refused.returncode == 1
    assert "leads out of the image" in refused.stderr
    assert not list(daemon.folder.rglob("evil"))
    # No other download of these bytes would be better.
    assert list((daemon.folder / "state" / "spool").iterdir()) == []
