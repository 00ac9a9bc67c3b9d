"""Disks of virtual machines from a real registry: `imgctl import HOST/PATH:TAG`."""

from __future__ import annotations

import gzip
import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import zstandard
from imgctl.errors import NotConnectedError

from imgstored.registry.disks import disk_uuid
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.layers import file, folder, hard, link, tar_of
from tests.support.sluice import Sluice
from tests.support.vm_disk import (
    KUBEVIRT,
    OCI,
    TITLE,
    push_artifact,
    push_container_disk,
    qcow2_of,
    raw_disk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgproto.events import EventDocument

    from tests.support.docker_registry import DockerRegistry


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "store") as started:
        yield started


def imported(daemon: Daemon, registry: DockerRegistry, name: str, tmp_path: Path) -> tuple[str, bytes]:
    """Imports it; returns the uuid, and the contents of its volume."""
    daemon.imgctl("import", f"{registry.host}/{name}", check=True)
    [row] = json.loads(daemon.imgctl("list", "-j", check=True).stdout)
    uuid = row["manifest"]["uuid"]
    out = tmp_path / "out"
    out.mkdir()
    daemon.imgctl("export", "--format", "raw", "-o", str(out / "disk"), uuid, check=True)
    [disk] = out.glob("*.raw")
    return uuid, disk.read_bytes()


def packed(data: bytes, how: str) -> bytes:
    return {"gzip": gzip.compress, "zstd": zstandard.compress, "none": bytes}[how](data)


@pytest.mark.parametrize(
    ("name", "form", "compression"),
    [
        ("/disk/vm.img", "qcow2", "gzip"),
        ("disk/vm.img", "raw", "zstd"),
        ("./disk/any name", "raw", "none"),
    ],
)
def test_a_container_disk(
    registry: DockerRegistry, daemon: Daemon, tmp_path: Path, form: str, compression: str, name: str
) -> None:
    content = raw_disk(tmp_path / "vm.raw")
    data = content if form == "raw" else qcow2_of(tmp_path / "vm.raw")
    layer = tar_of(folder("disk/"), file(name, data, uid=107, gid=107))
    digest = push_container_disk(registry, "kubevirt/fedora", "40", packed(layer, compression))
    uuid, found = imported(daemon, registry, "kubevirt/fedora:40", tmp_path)
    assert uuid == disk_uuid(digest)
    assert found == content
    manifest = json.loads((daemon.images / uuid / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("type", "name", "version", "os", "image_size")} == {
        "type": "zvol",
        "name": "fedora",
        "version": "40",
        "os": "linux",
        "image_size": 8,
    }
    assert (manifest["disk_driver"], manifest["nic_driver"]) == ("virtio", "virtio")
    assert manifest["tags"] == {"oci:repo": f"{registry.host}/kubevirt/fedora", "oci:digest": digest}
    assert "is ok" in daemon.imgctl("verify", uuid, check=True).stdout


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (f"{KUBEVIRT}.raw+zstd", "zstd"),
        (f"{KUBEVIRT}.raw+gzip", "gzip"),
        (f"{KUBEVIRT}.raw", "none"),
        (f"{KUBEVIRT}.qcow2", "qcow2"),
        (f"{OCI}.layer.v1.tar", "qcow2"),
    ],
)
def test_an_artifact(registry: DockerRegistry, daemon: Daemon, tmp_path: Path, kind: str, how: str) -> None:
    """As KubeVirt exports a machine; and as `oras push` takes a file, of which only its title tells."""
    content = raw_disk(tmp_path / "vm.raw")
    data = qcow2_of(tmp_path / "vm.raw", "-c") if how == "qcow2" else packed(content, how)
    notes = {"io.kubevirt.disk.name": "rootdisk", TITLE: "rootdisk.qcow2"}
    [digest] = push_artifact(registry, "vms/web", "1", (kind, data, notes), artifact="application/vnd.x.v1")
    assert imported(daemon, registry, "vms/web:1", tmp_path) == (disk_uuid(digest), content)


def test_what_older_clients_of_oras_push(registry: DockerRegistry, daemon: Daemon, tmp_path: Path) -> None:
    """As the Python client of ORAS does: no type of artifact, and a config of a type that nobody knows."""
    content = raw_disk(tmp_path / "vm.raw")
    layer = (f"{OCI}.layer.v1.tar", content, {TITLE: "rootdisk.img"})
    unknown = "application/vnd.unknown.config.v1+json"
    [digest] = push_artifact(registry, "vms/web", "1", layer, config=unknown)
    assert imported(daemon, registry, "vms/web:1", tmp_path) == (disk_uuid(digest), content)


def test_a_disk_is_found_by_the_digest_that_its_tag_had(
    registry: DockerRegistry, daemon: Daemon, tmp_path: Path
) -> None:
    """Killed and started again, the daemon goes on."""
    raw = tmp_path / "vm.raw"
    content = raw_disk(raw, size=64 << 20)
    layer = tar_of(file("disk/vm.img", content))
    digest = push_container_disk(registry, "vm", "1", layer)

    def kill_once_bytes_came(event: EventDocument) -> None:
        # Before that, the journal may not have the import yet.
        if event["event"] == "progress" and event["done"]:
            daemon.kill()

    with Sluice(registry.port) as sluice:
        sluice.hold(8 << 20)
        with daemon.client() as client, pytest.raises(NotConnectedError):
            client.ensure(f"127.0.0.1:{sluice.port}/vm:1", on_event=kill_once_bytes_came)
        sluice.open()
        push_container_disk(registry, "vm", "1", tar_of(file("disk/vm.img", b"another one")))
        daemon.start()
        with daemon.client() as client:
            until(client.list, seconds=180)
    out = tmp_path / "again"
    daemon.imgctl("export", "--format", "raw", "-o", str(out), disk_uuid(digest), check=True)
    [disk] = tmp_path.glob("again*.raw")
    assert disk.read_bytes() == content


def test_a_container_image_that_starts_nothing_and_has_no_disk(
    registry: DockerRegistry, daemon: Daemon
) -> None:
    push_container_disk(registry, "data", "1", gzip.compress(tar_of(file("data/disk/x"))))
    daemon.imgctl("import", f"{registry.host}/data:1", check=True)
    [row] = json.loads(daemon.imgctl("list", "-j", check=True).stdout)
    assert row["manifest"]["type"] == "docker"


def test_a_qcow2_that_names_another_file(registry: DockerRegistry, daemon: Daemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(1 << 20, b"!"))
    path = tmp_path / "evil.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(path)],
        check=True,
        capture_output=True,
    )
    push_artifact(registry, "evil", "1", (f"{KUBEVIRT}.qcow2", path.read_bytes(), {}))
    refused = daemon.imgctl("import", f"{registry.host}/evil:1")
    assert refused.returncode == 1
    assert "the qcow2 has a backing file" in refused.stderr
    assert daemon.imgctl("list", "-j", check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([file("disk/a", b"a" * 512), file("disk/b", b"b" * 512)], "more than one file in /disk"),
        ([file("disk/a", b"a" * 512), hard("disk/b", "disk/a")], "also a hard link in /disk"),
        ([file("disk/a", b"a" * 512), link("disk/b", "/etc/shadow")], "also a symbolic link in /disk"),
        ([file("disk/a", b"")], "it is empty"),
        ([file("disk/a", b"\x1f\x8b\x08" + bytes(512))], "compressed by gzip"),
    ],
)
def test_a_container_disk_that_is_none(
    registry: DockerRegistry, daemon: Daemon, members: list[object], why: str
) -> None:
    push_container_disk(registry, "odd", "1", gzip.compress(tar_of(*members)))  # type: ignore[arg-type]
    refused = daemon.imgctl("import", f"{registry.host}/odd:1")
    assert refused.returncode == 1
    assert why in refused.stderr


def test_a_machine_with_two_disks(registry: DockerRegistry, daemon: Daemon) -> None:
    disks = [(f"{KUBEVIRT}.raw", name.encode() * 600, {"io.kubevirt.disk.name": name}) for name in ("a", "b")]
    push_artifact(registry, "two", "1", *disks, artifact="application/vnd.kubevirt.virtualmachine.v1")
    refused = daemon.imgctl("import", f"{registry.host}/two:1")
    assert "a machine with 2 disks (a, b)" in refused.stderr


def test_a_disk_that_is_not_what_its_digest_says(
    registry: DockerRegistry, daemon: Daemon, tmp_path: Path
) -> None:
    content = raw_disk(tmp_path / "vm.raw")
    [digest] = push_artifact(registry, "bad", "1", (f"{KUBEVIRT}.raw", content, {}))
    key = digest.removeprefix("sha256:")
    [data] = registry.folder.glob(f"storage/**/blobs/sha256/{key[:2]}/{key}/data")
    data.write_bytes(content[:-1] + b"x")
    refused = daemon.imgctl("import", f"{registry.host}/bad:1")
    assert refused.returncode == 1
    assert "checksum (sha256) error" in refused.stderr
    assert daemon.imgctl("list", "-j", check=True).stdout.strip() == "[]"
