"""Registries and real ZFS: layers become datasets, and disks volumes, by the daemon and a real registry."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import pytest
from imgctl.errors import NotConnectedError

from imgstored.registry.containers import image_uuid
from imgstored.registry.disks import disk_uuid
from tests.guest.host import POOL, Host, zfs_host
from tests.guest.zpool import run
from tests.pools.contract import GUIDS
from tests.pools.layer_contract import BOTH, BOTTOM, TOP, owned
from tests.support.container_image import push
from tests.support.docker_registry import DockerRegistry
from tests.support.image_site import BASE, INCREMENTAL, fixture_file, fixture_manifest
from tests.support.layers import file, listing, tar_of
from tests.support.sluice import Sluice
from tests.support.vm_disk import push_container_disk, qcow2_of, raw_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgproto.events import EventDocument


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    running.daemon.start()
    yield running
    running.clear()
    assert running.daemon.stop() == 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as started:
        yield started


def files_of(host: Host, uuid: str, folder: Path) -> dict[str, bytes | str | None]:
    """What is in the snapshot of a layer's image: in `root`, as a zone has it."""
    folder.mkdir()
    run("mount", "-t", "zfs", f"{POOL}/{uuid}@final", str(folder))
    try:
        found: dict[str, bytes | str | None] = listing(folder / "root")
        return found
    finally:
        run("umount", str(folder))


def test_layers_become_datasets_each_cloned_from_the_one_below(host, registry, tmp_path):
    image = push(registry, "demo", "1", [owned(*BOTTOM), owned(*TOP)])
    digests = [layer["digest"] for layer in image["layers"]]
    below, above = image_uuid(digests[:1]), image_uuid(digests)
    host.daemon.imgctl("import", f"{registry.host}/demo:1", check=True)
    assert set(host.pool.names()) == {below, f"{below}@final", above, f"{above}@final"}
    assert host.pool.get(above, "origin") == [f"{POOL}/{below}@final"]
    assert files_of(host, above, tmp_path / "tree") == BOTH
    record = json.loads(host.manifest_file(above).read_text())
    assert (record["manifest"]["type"], record["manifest"]["origin"]) == ("docker", below)
    assert host.daemon.imgctl("verify", check=True).stdout.endswith("Verified 2 images: 2 ok\n")
    # As vmadm does.
    run("zfs", "clone", f"{POOL}/{above}@final", f"{POOL}/machine")
    assert "dependent clones" in host.daemon.imgctl("delete", above).stderr
    run("zfs", "destroy", f"{POOL}/machine")
    host.daemon.imgctl("delete", above, check=True)
    host.daemon.imgctl("delete", below, check=True)
    assert host.pool.names() == []


def test_a_layer_that_leads_out_leaves_nothing(host, registry):
    push(registry, "evil", "1", [owned(*BOTTOM), owned(file("lib/../../../evil"))])
    refused = host.daemon.imgctl("import", f"{registry.host}/evil:1")
    assert "leads out of the image" in refused.stderr
    # The layer below is sound; of this one there is neither a dataset nor a mount.
    assert len(host.pool.names()) == 2
    assert not list(host.folder.rglob("evil"))
    host.idle()
    assert host.spooled() == []


def test_kill_9_while_a_layer_is_unpacked(host, registry, tmp_path):
    content = random.Random(5).randbytes(24 << 20)
    image = push(registry, "large", "1", [owned(*BOTTOM), owned(file("big", content))])
    digests = [layer["digest"] for layer in image["layers"]]

    def killing(event: EventDocument) -> None:
        if event["event"] == "progress" and any(each["done"] > 4 << 20 for each in event["images"]):
            host.daemon.kill()

    with Sluice(registry.port) as sluice:
        sluice.hold(16 << 20)
        with host.daemon.client() as client, pytest.raises(NotConnectedError):
            client.ensure(f"127.0.0.1:{sluice.port}/large:1", on_event=killing)
        sluice.open()
        host.daemon.start()
        host.ensure(f"127.0.0.1:{sluice.port}/large:1")
    above = image_uuid(digests)
    assert set(host.pool.names()) == {
        image_uuid(digests[:1]),
        f"{image_uuid(digests[:1])}@final",
        above,
        f"{above}@final",
    }
    assert files_of(host, above, tmp_path / "tree")["big"] == content
    host.idle()
    assert host.spooled() == []


def test_a_disk_becomes_a_volume(host, registry, tmp_path):
    content = raw_disk(tmp_path / "vm.raw")
    layer = tar_of(file("disk/vm.img", qcow2_of(tmp_path / "vm.raw")))
    uuid = disk_uuid(push_container_disk(registry, "vm", "1", layer))
    host.daemon.imgctl("import", f"{registry.host}/vm:1", check=True)
    assert host.pool.get(uuid, "volsize") == [str(len(content))]
    device = host.pool.device(f"{uuid}").read_bytes()
    assert hashlib.sha256(device).hexdigest() == hashlib.sha256(content).hexdigest()
    assert "is ok" in host.daemon.imgctl("verify", uuid, check=True).stdout


def test_a_signed_image_and_its_origin(host, registry, tmp_path):
    """Published from here, and installed from the registry, with the guids that ZFS gave them."""
    key, url = tmp_path / "images.key", f"oci://{registry.host}/images"
    host.daemon.imgctl("keys", "make", str(key), check=True)
    for uuid in (BASE, INCREMENTAL):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(fixture_manifest(uuid)))
        flags = ("--sign", str(key), "-m", str(path), "-f", str(fixture_file(uuid)))
        host.daemon.imgctl("publish", "-q", *flags, url, check=True)
    public = key.with_name("images.key.pub").read_text().splitlines()[1]
    config = host.daemon.config_file.read_text()
    host.daemon.stop()
    try:
        host.daemon.config_file.write_text(f'{config}[[sources]]\nurl = "{url}"\nkeys = ["{public}"]\n')
        host.daemon.start()
        host.daemon.imgctl("import", INCREMENTAL, "-S", f"{registry.url}/images", check=True)
        said = host.daemon.imgctl("verify", check=True).stdout
        host.daemon.stop()
    finally:
        host.daemon.config_file.write_text(config)
    host.daemon.start()
    assert host.pool.guid(BASE) == GUIDS["base"]
    assert host.pool.guid(INCREMENTAL) == GUIDS["incremental"]
    assert said.count("signed by") == 2
