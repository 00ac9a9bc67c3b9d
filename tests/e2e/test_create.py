"""Images for others, without ZFS: of raw disks, exported, published; with the real daemon and client."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from tests.e2e.test_on_demand import started
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ZVOL_SHA256
from tests.support.imgapi import WritableImgapi

FIELDS = ("name=web", "version=1.0", "os=linux")
MIB = 1 << 20


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


@pytest.fixture
def disk(tmp_path):
    """A disk with holes, and a size that is no whole number of blocks."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(9 * MIB + 512)
        file.seek(2 * MIB + 1)
        file.write(random.Random(1).randbytes(MIB))
        file.seek(9 * MIB)
        file.write(b"the end")
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored_disk(daemon, uuid):
    return next((daemon.folder / "state" / "pool" / uuid).glob("*.raw"))


@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz", "zstd"])
def test_a_raw_disk_becomes_an_image_that_is_that_disk(daemon, tmp_path, disk, compression):
    made = daemon.imgctl("create", "--raw", "-c", compression, "-o", str(tmp_path), str(disk), *FIELDS)
    assert made.returncode == 0, made.stderr
    assert made.stderr.splitlines()[:2] == [
        'imgctl create: warning: disk_driver is not given: taken to be "virtio"',
        'imgctl create: warning: nic_driver is not given: taken to be "virtio"',
    ]
    suffix = {"none": "", "gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}[compression]
    file = tmp_path / f"web-1.0.zvol{suffix}"
    lines = made.stdout.splitlines()
    assert lines[-2:] == [
        f'Sending image file to "{file}"',
        f'Saving manifest to "{tmp_path}/web-1.0.imgmanifest"',
    ]
    manifest = json.loads((tmp_path / "web-1.0.imgmanifest").read_text())
    assert (manifest["version"], manifest["type"], manifest["image_size"]) == ("1.0", "zvol", 10)
    assert manifest["files"][0]["sha1"] == hashlib.sha1(file.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.glob(".*")] == []

    installed = daemon.imgctl("install", "-m", str(tmp_path / "web-1.0.imgmanifest"), "-f", str(file))
    assert installed.returncode == 0, installed.stderr
    there = stored_disk(daemon, manifest["uuid"])
    padded = disk.read_bytes().ljust(there.stat().st_size, b"\0")
    assert sha256(there) == hashlib.sha256(padded).hexdigest()


def test_a_qcow2_is_unpacked_and_one_that_reads_other_files_is_not(daemon, tmp_path, disk):
    qcow2, thief = tmp_path / "disk.qcow2", tmp_path / "thief.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(qcow2)]
    subprocess.run(convert, check=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(thief)], check=True
    )
    out = str(tmp_path / "out")
    made = daemon.imgctl("create", "--raw", "-o", out, str(qcow2), *FIELDS)
    assert made.returncode == 0, made.stderr
    daemon.imgctl("install", "-m", f"{out}.imgmanifest", "-f", f"{out}.zvol", check=True)
    uuid = json.loads((tmp_path / "out.imgmanifest").read_text())["uuid"]
    assert stored_disk(daemon, uuid).read_bytes().startswith(disk.read_bytes())
    refused = daemon.imgctl("create", "--raw", "-o", str(tmp_path / "thief"), str(thief), *FIELDS)
    assert refused.returncode == 1
    assert "error (Usage): the qcow2 has a backing file, which is not supported" in refused.stderr
    assert list(tmp_path.glob("thief.z*")) == []


def test_an_ova_is_its_one_disk_and_an_archive_is_none(daemon, tmp_path, disk):
    vmdk, ova, archive = tmp_path / "disk.vmdk", tmp_path / "machine.ova", tmp_path / "disk.zip"
    options = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run(["qemu-img", "convert", *options, str(disk), str(vmdk)], check=True)
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("machine.ovf"))
        tar.add(vmdk, "machine-disk1.vmdk")
    out = str(tmp_path / "out")
    made = daemon.imgctl("create", "--raw", "-o", out, str(ova), *FIELDS)
    assert made.returncode == 0, made.stderr
    daemon.imgctl("install", "-m", f"{out}.imgmanifest", "-f", f"{out}.zvol", check=True)
    uuid = json.loads((tmp_path / "out.imgmanifest").read_text())["uuid"]
    assert stored_disk(daemon, uuid).read_bytes().startswith(disk.read_bytes())
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(disk)
    refused = daemon.imgctl("create", "--raw", "-o", str(tmp_path / "no"), str(archive), *FIELDS)
    assert refused.returncode == 1
    assert "imgctl create: error (Usage): the disk is a zip archive, which is not taken" in refused.stderr
    assert "hint: unpack it" in refused.stderr
    assert list(tmp_path.glob("no.*")) == []


def test_a_disk_that_is_taken_as_it_is_needs_no_daemon(daemon, tmp_path, disk):
    """A machine can write onto its disk what looks like a qcow2."""
    looks = tmp_path / "looks.raw"
    looks.write_bytes(b"QFI\xfb" + disk.read_bytes()[4:])
    daemon.stop()
    out = str(tmp_path / "a")
    made = daemon.imgctl("create", "--as-raw", "--block-size", "4096", "-o", out, str(looks), *FIELDS)
    assert made.returncode == 0, made.stderr
    assert "the disk has 9437696 bytes, the volume 9441280: the last of them are zeros" in made.stderr
    daemon.start()
    daemon.imgctl("install", "-m", f"{out}.imgmanifest", "-f", f"{out}.zvol", check=True)
    uuid = json.loads((tmp_path / "a.imgmanifest").read_text())["uuid"]
    assert stored_disk(daemon, uuid).read_bytes() == looks.read_bytes().ljust(9441280, b"\0")


def test_ctrl_c_leaves_no_file(daemon, tmp_path):
    large = tmp_path / "large.raw"
    large.write_bytes(random.Random(2).randbytes(16 * MIB))
    client = started(daemon, "create", "--raw", "-c", "xz", "-o", str(tmp_path / "out"), str(large), *FIELDS)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".imgctl-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    assert client.returncode == 130
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name or "imgctl-" in path.name] == []


def test_the_embedded_pool_has_nothing_to_make_images_of(daemon, tmp_path):
    refused = daemon.imgctl("create", "-o", str(tmp_path), "zones/data", *FIELDS)
    assert refused.returncode == 1
    assert 'error (NotSupported): pool "zones" is an embedded one' in refused.stderr
    vm = "55555555-aaaa-4bbb-8ccc-000000000001"
    refused = daemon.imgctl("create", "-o", str(tmp_path), vm, *FIELDS)
    assert "error (NotSupported): this host has no machines" in refused.stderr
    assert list(tmp_path.glob("*.imgmanifest")) == list(tmp_path.glob(".imgctl*")) == []


def test_what_is_exported_is_the_same_image_elsewhere(daemon, tmp_path):
    daemon.imgctl("import", INCREMENTAL, check=True)
    for uuid, compression in ((BASE, "gzip"), (INCREMENTAL, "xz")):
        out = str(tmp_path / uuid)
        said = daemon.imgctl("export", "-c", compression, "-o", out, uuid, check=True)
        suffix = {"gzip": ".gz", "xz": ".xz"}[compression]
        assert said.stdout.splitlines() == [
            f'Exported image {uuid} to "{out}.imgmanifest"',
            f'Exported image {uuid} to "{out}.zfs{suffix}"',
        ]
    with Daemon(tmp_path / "elsewhere") as other:
        for uuid, suffix in ((BASE, "gz"), (INCREMENTAL, "xz")):
            files = ("-m", f"{tmp_path}/{uuid}.imgmanifest", "-f", f"{tmp_path}/{uuid}.zfs.{suffix}")
            installed = other.imgctl("install", *files)
            assert installed.returncode == 0, installed.stderr
        for uuid in (BASE, INCREMENTAL):
            here, there = (
                json.loads(each.imgctl("get", uuid, check=True).stdout)["manifest"]
                for each in (daemon, other)
            )
            (file,) = there.pop("files")
            here.pop("files")
            assert here == there
            assert guid(daemon, uuid) == guid(other, uuid) == file["dataset_guid"]


def test_an_image_goes_to_another_host_through_a_pipe(daemon, tmp_path):
    daemon.imgctl("import", INCREMENTAL, check=True)
    with Daemon(tmp_path / "elsewhere") as other:
        for uuid in (BASE, INCREMENTAL):
            imgctl = f"{sys.executable} -m imgctl --socket"
            line = f"{imgctl} {daemon.socket} export -o - {uuid} | {imgctl} {other.socket} install -f -"
            sent = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=60)
            assert (sent.returncode, sent.stderr) == (0, b"")
        for uuid in (BASE, INCREMENTAL):
            assert guid(daemon, uuid) == guid(other, uuid)


def guid(daemon, uuid):
    note = (daemon.folder / "state" / "pool" / uuid).glob("image*.json")
    return str(json.loads(next(note).read_text())["guid"])


def test_a_volume_is_exported_as_a_disk(daemon, tmp_path):
    daemon.imgctl("import", ZVOL, check=True)
    daemon.imgctl("export", "--format", "raw", "-o", str(tmp_path / "disk"), ZVOL, check=True)
    raw = tmp_path / "disk.raw"
    assert sha256(raw) == ZVOL_SHA256
    assert raw.stat().st_blocks * 512 < raw.stat().st_size
    daemon.imgctl("export", "--format", "qcow2", "-o", str(tmp_path / "disk"), ZVOL, check=True)
    back = ["qemu-img", "convert", "-O", "raw", str(tmp_path / "disk.qcow2"), str(tmp_path / "back")]
    subprocess.run(back, check=True)
    assert sha256(tmp_path / "back") == ZVOL_SHA256
    daemon.imgctl("import", BASE, check=True)
    refused = daemon.imgctl("export", "--format", "raw", "-o", str(tmp_path / "no"), BASE)
    assert "error (Usage): a raw disk can only be made of a zvol" in refused.stderr
    assert list(tmp_path.glob("*no*")) == []


def test_made_and_published(daemon, tmp_path, disk):
    """`create -p` keeps no files; the server has an image that can be imported from it."""
    with WritableImgapi() as server:
        made = daemon.imgctl("create", "--raw", "-c", "gzip", "-p", server.url, str(disk), *FIELDS)
        assert made.returncode == 0, made.stderr
        (uuid,) = server.images
        lines = made.stdout.splitlines()
        assert lines[-4] == f"Imported image {uuid} (web, 1.0, state=unactivated)"
        assert lines[-3].startswith('Added file "/')
        assert lines[-3].endswith(f'/web-1.0.zvol.gz" (compression "gzip") to image {uuid}')
        assert lines[-2:] == [
            f"Activated image {uuid}",
            f"Successfully published image {uuid} to {server.url}",
        ]
        assert server.images[uuid]["state"] == "active"
        assert gzip.decompress(server.files[uuid])
        daemon.imgctl("import", "-S", server.url, uuid, check=True)
        assert stored_disk(daemon, uuid).read_bytes().startswith(disk.read_bytes())
